"""Things put in order from statements (``orders``): logical deduction with one row of things.

The question names the things and says where some stand: ``The gray book is to the left of the red book``, ``Joe
finished second-to-last``. All orders that fit are enumerated (at most 7 things: 5,040), and what a step says of places
(``from left to right: first is the black book, then second can be …``, ``the only book that can be third …``) and the
answer's option are held against them:

- what no fitting order has is false;
- that a place ``is`` some thing is false, too, if it does not follow from the places that the question names and the
  statements that the trace has repeated so far.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import permutations
from typing import NamedTuple

from tracestill.data_pipeline.soundness.checkers.finding import Finding, Outcome, Trace

MOST = 7  # things; 5,040 orders
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")
ORDINAL = f"({'|'.join(ORDINALS)})"
THINGS = re.compile(r"\b(?:there (?:are|were)|sells) (?:three|four|five|six|seven) [^:\n]*: ([^.\n]+)\.")
BEFORE = ("to the left of", "finished above", "more expensive than", "newer than")
BEHIND = ("to the right of", "finished below", "less expensive than", "cheaper than", "older than")
RELATION = re.compile(rf"\b({'|'.join([*BEFORE, *BEHIND])}) (?:the )?$")
FRONT = "leftmost|most expensive|newest"
BACK = "rightmost|cheapest|least expensive|oldest"
PLACE = re.compile(
    rf"(?:{ORDINAL} from the (left|right)|(?:{ORDINAL}[- ])?({FRONT}|{BACK})|{ORDINAL}-to-(last)"
    rf"|finished (last)\b|finished {ORDINAL}\b(?!-to))"
)
END = "left|right|newest|oldest|first|last|most|least|most expensive|least expensive|cheapest|leftmost|rightmost"
DIRECTION = re.compile(rf"\bfrom (?:the )?({END}) to (?:the )?(?:{END}):")
SAID = re.compile(r"^(?P<thing>.*?)\b(?P<how>is|are|must be|cannot be|can't be|must have|finished)\b(?P<place>.*)$")
CLAIM = re.compile(
    rf"((?:{ORDINAL}(?:, and |, | and )?)+)(?: [a-z]+)? (is|must be|can be|are) ([^,.;]+(?:, or [^,.;]+)?)"
)
ONLY = re.compile(
    r"\bonly [a-z]+ (?:that|who|which) (?:can be|could be|can have finished|finished) (.{3,60}?) (?:is|are) "
)
OPTION = re.compile(r"\(([A-G])\) ([^\n]+)")
ANSWER = re.compile(r"\banswer is \(([A-G])\)")
FORWARD = ("left", "newest", "first", "most", "most expensive", "leftmost")

Order = tuple[str, ...]


class Statement(NamedTuple):
    """``thing`` stands at place ``at`` (from 0), or, with ``other``, before it."""

    thing: str
    at: int
    other: str = ""

    def fits(self, order: Order) -> bool:
        if self.other:
            return order.index(self.thing) < order.index(self.other)
        return 0 <= self.at < len(order) and order[self.at] == self.thing


class Puzzle(NamedTuple):
    things: tuple[str, ...]
    statements: dict[str, Statement]  # by their sentence
    orders: list[Order]  # that fit all


def orders(trace: Trace) -> Iterator[Finding]:
    puzzle = puzzle_of(trace.question)
    if puzzle is None:
        return
    options = dict(OPTION.findall(trace.question))
    said = [one for one in puzzle.statements.values() if not one.other]
    for start, end in zip(trace.starts, trace.ends, strict=True):
        step = trace.text[start:end]
        said += [one for sentence, one in puzzle.statements.items() if sentence in step and one not in said]
        follows = [order for order in all_orders(puzzle.things) if all(one.fits(order) for one in said)]
        for direction in DIRECTION.finditer(step):
            stop = step.find(".", direction.end())
            row = step[direction.end() : stop if stop >= 0 else len(step)]
            at = start + direction.end()
            yield from places(row, at, direction[1] in FORWARD, puzzle, follows)
        yield from sentences_of(step, start, puzzle, follows)
        for only in ONLY.finditer(step):
            place, stop = place_of(only[1], len(puzzle.things)), step.find(".", only.end())
            named = things_in(step[only.end() : stop if stop >= 0 else len(step)], puzzle.things)
            if place is not None and named:
                outcome = can_be(place, named, puzzle.orders)
                yield Finding(start + only.start(), start + only.end(), outcome, f"place {place + 1}: {named[0]}")
        for answer in ANSWER.finditer(step):
            statement = statement_of(options.get(answer[1], ""), puzzle.things)
            if statement is not None:
                right = all(statement.fits(order) for order in puzzle.orders)
                detail = "" if right else f"not so in {', '.join(puzzle.orders[0])}"
                span = start + answer.start(), start + answer.end()
                yield Finding(*span, "holds" if right else "false", detail)


def places(row: str, start: int, forward: bool, puzzle: Puzzle, follows: list[Order]) -> Iterator[Finding]:
    """What a row says of each place: ``first is the black book, then second, third can be any book``."""
    for claim in CLAIM.finditer(row):
        named = things_in(claim[4], puzzle.things)
        numbers = [ORDINALS.index(word) for word in re.findall(ORDINAL, claim[1])]
        several = claim[3] != "can be" and len(numbers) != len(named) > 0  # "second, third and fourth is the owl"
        if not named or not numbers or several or re.search(r"\b(?:any|unknown)\b", claim[4]):
            continue
        for number in numbers:
            span = start + claim.start(), start + claim.end()
            at = number if forward else len(puzzle.things) - 1 - number
            if not 0 <= at < len(puzzle.things):
                yield Finding(*span, "false", f"there are {len(puzzle.things)} places")
            elif claim[3] == "can be" or len(named) > 1 or len(numbers) > 1:
                yield Finding(*span, can_be(at, named, puzzle.orders), f"place {at + 1}: {' or '.join(named)}")
            else:
                right = bool(follows) and all(order[at] == named[0] for order in follows)
                detail = "" if right else f"that place {at + 1} is {named[0]} does not follow from what was said"
                yield Finding(*span, "holds" if right else "false", detail)


def sentences_of(step: str, start: int, puzzle: Puzzle, follows: list[Order]) -> Iterator[Finding]:
    """What sentences say of one thing's place: ``The sedan is the second-newest, so it is the sixth-oldest``."""
    last: list[str] = []
    for clause in re.finditer(r"[^.,:;\n]+", step):
        said = SAID.match(clause[0])
        if said is None:
            continue
        named = things_in(said["thing"], puzzle.things)
        if not named and re.search(r"\bit\b", said["thing"]):
            named = last
        last = named
        at = place_of(said["place"] if said["how"] != "finished" else clause[0], len(puzzle.things))
        if len(named) != 1 or at is None or things_in(said["place"], puzzle.things) or " and " in said["place"]:
            continue
        if re.search(r"\b(?:if|not|only|or|can|could|previously)\b", clause[0].replace("cannot", ""), re.I):
            continue
        span = start + clause.start(), start + clause.end()
        if said["how"].startswith("can"):
            wrong = all(order[at] == named[0] for order in puzzle.orders)
            yield Finding(*span, "false" if wrong else "holds", f"place {at + 1} is {named[0]}" if wrong else "")
        elif not any(order[at] == named[0] for order in puzzle.orders):
            yield Finding(*span, "false", f"place {at + 1} is {puzzle.orders[0][at]}, not {named[0]}")
        else:
            sure = bool(follows) and all(order[at] == named[0] for order in follows)
            yield Finding(*span, "holds" if sure else "cannot_tell")


def can_be(at: int, named: Sequence[str], fitting: Sequence[Order]) -> Outcome:
    return "cannot_tell" if any(order[at] in named for order in fitting) else "false"


@lru_cache(maxsize=8)
def all_orders(things: tuple[str, ...]) -> list[Order]:
    return list(permutations(things))


@lru_cache(maxsize=64)
def puzzle_of(question: str) -> Puzzle | None:
    """Things and statements; None where there are none, or no order fits."""
    found = THINGS.search(question)
    if found is None:
        return None
    listed = re.split(r", and |, | and ", found[1])
    things = tuple(re.sub(r"^(?:an?|the) ", "", thing.strip()) for thing in listed)
    if not 2 <= len(things) <= MOST or len(set(things)) < len(things):
        return None
    body = question[found.end() :].partition("\nQ:")[0].partition("Options:")[0]
    sentences = [line.strip(" -\n").rstrip(".") for line in re.split(r"\.\s|\n", body)]
    statements = {
        sentence: one for sentence in sentences if sentence and (one := statement_of(sentence, things)) is not None
    }
    if len(statements) < sum(bool(sentence) for sentence in sentences):
        return None  # one that is not read would leave orders that do not fit
    fitting = [order for order in all_orders(things) if all(one.fits(order) for one in statements.values())]
    return Puzzle(things, statements, fitting) if fitting else None


def statement_of(sentence: str, things: Sequence[str]) -> Statement | None:
    """What a sentence says; None if it is not read."""
    named = things_in(sentence, things)
    if not named:
        return None
    if len(named) == 2:
        head = sentence[: sentence.lower().rindex(named[1].lower())]
        relation = RELATION.search(head)
        if relation is None:
            return None
        first, second = named if relation[1] in BEFORE else named[::-1]
        return Statement(first, -1, second)
    at = place_of(sentence, len(things))
    return None if at is None or len(named) != 1 else Statement(named[0], at)


def place_of(text: str, n: int) -> int | None:
    """The place that ``second from the right``, ``third-newest`` or ``finished last`` names."""
    found = PLACE.search(text)
    if found is None:
        return ORDINALS.index(text) if text in ORDINALS else None
    if found[2]:
        at = ORDINALS.index(found[1])
        return at if found[2] == "left" else n - 1 - at
    if found[4]:
        at = ORDINALS.index(found[3]) if found[3] else 0
        return at if re.fullmatch(FRONT, found[4]) else n - 1 - at
    if found[6]:
        return n - 1 - ORDINALS.index(found[5])
    return n - 1 if found[7] else ORDINALS.index(found[8])


def things_in(text: str, things: Sequence[str]) -> list[str]:
    """The things that a text names, in its order."""
    at = [(found.start(), thing) for thing in things if (found := re.search(rf"\b{re.escape(thing)}\b", text, re.I))]
    return [thing for _, thing in sorted(at)]
