"""The verifiers ``list``, ``set`` and ``interval``: several values, with or without an order, and ranges of numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from tracestill.data_pipeline.answers.numbers.quantity import INNER, LEAD, quantity, settled, shown, unframed
from tracestill.data_pipeline.answers.plain import cased_text, is_prose
from tracestill.data_pipeline.answers.verdict import Outcome, Verdict

MOST = 200  # items
DEEPEST = 8  # lists within lists
ENDS = {"[": "]", "(": ")", "{": "}"}
LATEX = (("\\left", ""), ("\\right", ""), ("\\{", "{"), ("\\}", "}"), ("\\lbrace", "{"), ("\\rbrace", "}"),
         ("\\infty", "∞"), ("\\emptyset", "{}"), ("\\varnothing", "{}"),
         ("\\cup", "∪"), ("\\leq", "≤"), ("\\le", "≤"), ("\\geq", "≥"), ("\\ge", "≥"), ("\\lt", "<"),
         ("\\gt", ">"))  # fmt: skip
WORDED = re.compile(r"\s*,?\s+(?:and|or)\s+", re.I)
PLUS_MINUS = re.compile(r"(?:±|\\pm)\s*")
NAMED = re.compile(r"\A\s*(\\?[A-Za-z])\s*(?:=|\\in|∈)\s*")
ORDER = re.compile(
    r"\b(?:sort(?:ed)?|ascending|descending|alphabetical(?:ly)?|(?:in|in which|in what) order|"
    r"increasing order|order of|sequence|respectively|arrange|rank|next|ordered|coordinates?|point|pair|tuple|"
    r"list the steps)\b",
    re.I,
)
FREE = re.compile(
    r"\b(?:roots?|solutions?|solve|all|factors|divisors|zeros|set|which of|values|possible|distinct|separated)\b", re.I
)
RANGE = re.compile(r"\b(?:interval|domain|range|inequality|inequalities)\b", re.I)
EMPTY = frozenset({"none", "no solution", "no solutions", "no real solutions", "empty set", "the empty set", "∅"})
NUMBER = r"[-+]?(?:\d+(?:\.\d+)?(?:/\d+)?|∞|inf(?:inity)?|oo)"
BETWEEN = re.compile(rf"([\[(\]])\s*({NUMBER})\s*[,;]\s*({NUMBER})\s*([\])\[])")
CHAIN = re.compile(rf"(?:({NUMBER})\s*([<≤>≥]|<=|>=)\s*)?([A-Za-z])\s*([<≤>≥]|<=|>=)\s*({NUMBER})")
TURNED = re.compile(rf"({NUMBER})\s*([<≤>≥]|<=|>=)\s*([A-Za-z])")
TURNED_OR_NOT = re.compile(r"([A-Za-z])\s*[<≤>≥]|[<≤>≥]=?\s*([A-Za-z])\s*(?!\w)")
RATIO = re.compile(r"\d+(?:\.\d+)?(?:\s*:\s*\d+(?:\.\d+)?)+")


class Items(NamedTuple):
    opening: str  # "[", "(", "{", or "" of a bare list
    items: tuple[str, ...]
    each: tuple[str, ...]  # of every item its name: x, x of "x = 2 or x = 3"; "" of one that has none

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self.each) - {""}


def opened(text: str) -> str:
    """Text with the frame around it, and LaTeX's way of setting brackets, taken off."""
    plain = LEAD.sub("", unframed(text), count=1) if "nswer" in text else unframed(text)
    if "\\" in plain:
        plain = INNER.sub(r"\1", plain)
        for mark, sign in LATEX:
            plain = plain.replace(mark, sign)
    return plain.strip().strip("$").strip()


@lru_cache(2048)
def items_of(text: str) -> Items | None:
    """The items of a list that the whole of a text is, or None."""
    if len(text) > 20_000:
        return None
    plain = opened(text)
    names: list[str] = []
    if match := NAMED.match(plain):
        rest = plain[match.end() :]
        if rest[:1] in ENDS:
            plain = rest
    opening = plain[:1] if plain[:1] in ENDS and plain[-1:] == ENDS[plain[:1]] and _is_pair(plain) else ""
    inside = plain[1:-1] if opening else plain
    parts = split(inside, ";") if ";" in inside else split(inside, ",")
    if not opening or len(parts) == 1:
        last = WORDED.split(parts[-1])
        parts = [*parts[:-1], *last] if len(parts) > 1 or not opening else parts
        if len(parts) > 2 and parts[-1].lower().startswith(("and ", "or ")):
            parts[-1] = parts[-1].split(None, 1)[1]
    items: list[str] = []
    for part in parts:
        name = match[1] if (match := NAMED.match(part)) else ""
        item = part[match.end() if match else 0 :].strip().strip("$").strip()
        if (both := PLUS_MINUS.match(item)) and quantity(item[both.end() :]) is not None:
            opening = opening or "{"
            items += [f"-{item[both.end() :]}", item[both.end() :]]
            names += [name, name]
        else:
            items.append(item)
            names.append(name)
    if len(items) > MOST or (len(items) < 2 and opening not in ("{", "[")) or (not all(items) and items != [""]):
        return None
    kept = [(item, name) for item, name in zip(items, names, strict=True) if item]
    return Items(opening, tuple(item for item, _ in kept), tuple(name for _, name in kept))


def _is_pair(text: str) -> bool:
    """Whether the first bracket of a text closes at its end."""
    depth = 0
    for at, sign in enumerate(text):
        depth += (sign in "[({") - (sign in "])}")
        if depth == 0:
            return at == len(text) - 1
    return False


def split(text: str, mark: str) -> list[str]:
    """Parts between marks that stand in no bracket."""
    depth, start, found = 0, 0, []
    for at, sign in enumerate(text):
        depth += (sign in "[({") - (sign in "])}")
        if sign == mark and depth <= 0:
            found.append(text[start:at].strip())
            start = at + 1
    return [*found, text[start:].strip()]


def key_of(item: str, depth: int = 0) -> str:
    """What equal items have in common: a number's value, or the text, in prose without case."""
    found = quantity(item)
    if found is not None and not found.percent:
        unit = found.unit
        if unit is not None and unit.known:
            return f"{shown(found.value * unit.factor)} {unit.dimensions}"
        return shown(found.value)
    if depth < DEEPEST and (inner := items_of(item)) is not None and inner.opening:
        keys = [key_of(one, depth + 1) for one in inner.items]
        return f"{inner.opening}{','.join(sorted(set(keys)) if inner.opening == '{' else keys)}"
    text = cased_text(item)
    if len(text) > 2 and text[0] in "\"'" and text[0] == text[-1]:
        text = text[1:-1]
    return text.casefold() if is_prose(text) else "".join(text.split())


def needs_algebra(items: Sequence[str]) -> bool:
    """Whether an item may be written otherwise in a way that only algebra sees."""
    return any(quantity(item) is None and re.search(r"\\[a-zA-Z]|\^|√|π", item) for item in items)


def has_order(question: str) -> bool | None:
    """Whether a question asks for an order; None if it says neither."""
    if ORDER.search(question):
        return True
    return False if FREE.search(question) else None


def verify_list(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both hold equal items in the same order. Where a bare list has another order, the question decides:
    "sort", "in order"; "solutions", "all"; ``cannot_tell`` if it says nothing."""
    wanted, said = items_of(gold), items_of(answer)
    if wanted is None:
        return Verdict("cannot_tell", "", "", "list", "the gold answer is no list")
    goal = [key_of(item) for item in wanted.items]
    held = _joined(wanted.opening, goal)
    if said is None:
        one = quantity(answer)
        outcome: Outcome = "wrong" if one is not None or not answer.strip() else "cannot_tell"
        return Verdict(outcome, "", held, "list", "the answer is no list")
    mine = [key_of(item) for item in said.items]
    read = _joined(said.opening, mine)
    if Counter(mine) != Counter(goal):
        return Verdict("wrong", read, held, "list")
    if set(wanted.each) == set(said.each) and "" not in said.each and len(said.names) == len(goal) > 1:
        alike = dict(zip(said.each, mine, strict=True)) == dict(zip(wanted.each, goal, strict=True))
        return Verdict("right" if alike else "wrong", read, held, "list", "by their names")
    if len(wanted.names) == 1 and len(said.names) == 1 and wanted.names != said.names:
        return Verdict("cannot_tell", read, held, "list", "of two names")
    if {wanted.opening, said.opening} == {"(", "["} and len(goal) == 2:
        decided: Outcome = "wrong" if RANGE.search(question) else "cannot_tell"
        return Verdict(decided, read, held, "list", "an interval with its ends, or without")
    if said.opening == "{" and wanted.opening in ("(", "["):
        return Verdict("cannot_tell", read, held, "list", "a set has no order")
    if mine == goal:
        return Verdict("right", read, held, "list")
    order = has_order(question) if not wanted.opening else True
    if len(wanted.names | said.names) == 1 and order is None:
        order = False  # x = 2 or x = 3
    outcomes: dict[bool | None, Outcome] = {True: "wrong", False: "right", None: "cannot_tell"}
    return Verdict(outcomes[order], read, held, "list", "" if order is False else "in another order")


def verify_set(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both hold the same items, in any order, any number of times."""
    wanted, said = items_of(gold), items_of(answer)
    if wanted is None:
        return Verdict("cannot_tell", "", "", "set", "the gold answer is no set")
    goal = sorted({key_of(item) for item in wanted.items})
    held = _joined("{", goal)
    if said is None:
        mine = [] if unframed(answer).lower() in EMPTY else [key_of(unframed(answer))]
        outcome: Outcome = "right" if mine == goal else "wrong"
        return Verdict(outcome, _joined("", mine), held, "set")
    mine = sorted({key_of(item) for item in said.items})
    read = _joined(said.opening, mine)
    if mine != goal:
        return Verdict("wrong", read, held, "set")
    if said.opening == "(" and len(said.items) == 2:
        return Verdict("cannot_tell", read, held, "set", "a pair, or an interval")
    return Verdict("right", read, held, "set")


def _joined(opening: str, items: Sequence[str]) -> str:
    return f"{opening}{', '.join(items)}{ENDS.get(opening, '')}"


class Interval(NamedTuple):
    low: Fraction | None  # None: without end
    low_in: bool
    high: Fraction | None
    high_in: bool

    def __str__(self) -> str:
        low = "-∞" if self.low is None else shown(self.low)
        high = "∞" if self.high is None else shown(self.high)
        return f"{'[' if self.low_in else '('}{low}, {high}{']' if self.high_in else ')'}"


@lru_cache(2048)
def intervals_of(text: str) -> tuple[Interval, ...] | None:
    """The ranges of numbers that the whole of a text says: ``[1, 3)``, ``]1, 3[``, ``x > 3``, ``1 < x ≤ 5``, and unions
    of such; None if it says none."""
    if len(text) > 500:
        return None
    plain = settled(opened(text)).replace("<=", "≤").replace(">=", "≥")
    if match := NAMED.match(plain):
        plain = plain[match.end() :]
    found = [_interval(part.strip()) for part in re.split(r"∪|\bU\b|\bor\b", plain)]
    known = [one for one in found if one is not None]
    if len(known) != len(found):
        return None
    return tuple(sorted(known, key=lambda one: (one.low is not None, one.low or 0, one.high is None, one.high or 0)))


def _interval(text: str) -> Interval | None:
    if match := BETWEEN.fullmatch(text):
        ends = _end(match[2]), _end(match[3])
        return Interval(
            ends[0], match[1] == "[" and ends[0] is not None, ends[1], match[4] == "]" and ends[1] is not None
        )
    if match := TURNED.fullmatch(text):
        text = f"{match[3]} {match[2].translate(str.maketrans('<>≤≥', '><≥≤'))} {match[1]}"
    match = CHAIN.fullmatch(text)
    if match is None:
        return None
    first, sign, _, second, last = match.groups()
    if first is None:
        if second in "<≤":
            return Interval(None, False, _end(last), second == "≤")
        return Interval(_end(last), second == "≥", None, False)
    if (sign in "<≤") != (second in "<≤"):
        return None
    if sign in ">≥":
        first, sign, second, last = last, second, sign, first
    return Interval(_end(first), sign in "≤≥", _end(last), second in "≤≥")


def _end(text: str) -> Fraction | None:
    return Fraction(text) if text[-1].isdigit() else None


def is_range(text: str, question: str) -> bool:
    """Whether a text says a range, and not a pair or a list of two: by unlike brackets, an end that is none, a sign of
    inequality, or a question that asks for one."""
    found = intervals_of(text)
    if found is None:
        return False
    plain = opened(text)
    return (
        len(found) > 1
        or any(sign in plain for sign in "<>≤≥∞")
        or any(one.low is None or one.high is None or one.low_in != one.high_in for one in found)
        or plain[:1] == "]"
        or RANGE.search(question) is not None
    )


def verify_interval(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if both are the same ranges, ends included or not; an inequality says a range, too."""
    wanted, said = intervals_of(gold), intervals_of(answer)
    if wanted is None:
        return Verdict("cannot_tell", "", "", "interval", "the gold answer is no interval")
    held = " ∪ ".join(map(str, wanted))
    if said is None:
        return Verdict("wrong", "", held, "interval", "the answer is no interval")
    read = " ∪ ".join(map(str, said))
    mine, goal = (
        {name for part in TURNED_OR_NOT.findall(opened(text)) for name in part if name} for text in (answer, gold)
    )
    if said == wanted and mine and goal and mine != goal:
        return Verdict("cannot_tell", read, held, "interval", "of two names")
    return Verdict("right" if said == wanted else "wrong", read, held, "interval")


def verify_ratio(answer: str, gold: str) -> Verdict:
    """``3:4``; a ratio that is not reduced alike cannot be told: the simplest may have been asked for."""
    held = re.sub(r"\s", "", settled(opened(gold)))
    read = re.sub(r"\s+to\s+|\s", lambda match: ":" if "to" in match[0] else "", settled(opened(answer)))
    if read == held:
        return Verdict("right", read, held, "list")
    if not RATIO.fullmatch(read):
        return Verdict("wrong", "", held, "list", "the answer is no ratio")
    mine, goal = ([Fraction(part) for part in text.split(":")] for text in (read, held))
    alike = len(mine) == len(goal) and all(a * goal[0] == b * mine[0] for a, b in zip(mine, goal, strict=True))
    return Verdict(
        "cannot_tell" if alike else "wrong", read, held, "list", "the same, reduced otherwise" if alike else ""
    )
