"""Chains of sides in a row of tokens: what stands on either side of each sign, and what can be read of it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from tracestill.data_pipeline.soundness.expressions import Side, evaluate
from tracestill.data_pipeline.soundness.functions import Unreadable
from tracestill.data_pipeline.soundness.reader import PLAIN
from tracestill.data_pipeline.soundness.tokens import CLAUSE, WORDED, Token
from tracestill.data_pipeline.soundness.units import units_of

LONGEST = 60  # tokens of a side; a longer one is not read
NUMBERED = (  # the number behind is a name
    "day week month year hour class grade step chapter page question problem round game level part case number age "
    "room stage team group item option example equation"
)
NAMES = frozenset(NUMBERED.split())
PARTIAL = ("of", "half", "third", "quarter", "by", "from", "than", "to", "between")  # change what follows
MULTIPLES = ("twice", "thrice", "double", "triple", "quadruple", "half", "doble", "mitad", "doppelt", "halb", "moitié")
COMPARES = {"more", "less", "fewer", "times", "percent", "of", "than", "or", "better", "larger", "smaller", "older"}
GO_ON = ("operator", "unknown", "function", "factorial", "pi")  # behind an expression: it is not at its end
OPERANDS = ("number", "open", "function", "pi", "time")


class Link(NamedTuple):
    """A sign with what can be read on either side of it."""

    left: Side | None
    sign: str
    right: Side | None


class Group(NamedTuple):
    """Sides joined by signs, one more than those; ``modulus``: of ``(mod 10)`` behind them, else 0."""

    sides: list[Side]
    signs: list[str]
    modulus: int
    soft: bool  # whether something beside the sides may change what they mean


class Segment(NamedTuple):
    """Tokens between two signs, and what they give to the sign before them and to the one behind them."""

    prefix: Side | None
    suffix: Side | None
    modulus: int
    soft: bool


def chains(tokens: Sequence[Token]) -> Iterator[tuple[list[list[Token]], list[str]]]:
    """Stretches of tokens between breaks, split at signs of relation: at least two segments each."""
    segments: list[list[Token]] = [[]]
    signs: list[str] = []
    depth = 0
    for at, token in enumerate(tokens):
        depth = max(0, depth + (token.type == "open") - (token.type == "close"))
        if token.type == "break" and not (token.text == "," and depth and segments[-1]):
            if signs:
                yield segments, signs
            last = tokens[at - 1] if at else token
            torn = last.type == "operator" or is_torn(tokens, at)
            segments, signs, depth = [[token._replace(type="unknown") if torn else token]], [], 0
        elif token.type == "relation":
            segments.append([])
            signs.append(token.text)
        else:
            segments[-1].append(token)
    if signs:
        yield segments, signs


def is_torn(tokens: Sequence[Token], at: int) -> bool:
    """Whether a comma with a space stands inside a number: ``14, 400``."""
    if tokens[at].text != "," or not 0 < at < len(tokens) - 1:
        return False
    left, right = tokens[at - 1], tokens[at + 1]
    return left.type == right.type == "number" and len(left.text) <= 3 and len(right.text) == 3 and right.text.isdigit()


def runs(segments: list[list[Token]], signs: list[str]) -> Iterator[Group]:
    read: list[Segment] = []
    for at, segment in enumerate(segments):
        read.append(read_segment(segment, at > 0, at + 1 < len(segments)))
    sides: list[Side] = []
    joined: list[str] = []
    soft, modulus = False, 0
    for at, sign in enumerate(signs):
        left, right = read[at].suffix, read[at + 1].prefix
        linked = left is not None and right is not None
        if left is not None and right is not None and sign in ("is", WORDED):
            linked = is_statement(left, right, segments[at + 1], sign)
        goes_on = bool(sides) and left is sides[-1]
        if sides and not (linked and goes_on):
            yield Group(sides, joined, modulus, soft)
            sides, joined, soft, modulus = [], [], False, 0
        if linked:
            assert left is not None
            assert right is not None
            sides = sides or [left]
            sides.append(right)
            joined.append("=" if sign in ("is", WORDED) else sign)
            soft = soft or read[at + 1].soft
            modulus = modulus or read[at + 1].modulus or trailing_modulus(right)
    if sides:
        yield Group(sides, joined, modulus, soft)


def trailing_modulus(side: Side) -> int:
    """10 of ``3 mod 10``, which may mean a congruence; else 0."""
    texts = [token.text for token in side.tokens[-2:]]
    return int(texts[1]) if texts[:1] == ["mod"] and texts[1].isdigit() else 0


def is_statement(left: Side, right: Side, segment: Sequence[Token], sign: str) -> bool:
    """Whether words between them say that they are equal: ``20 * 5 is 100``, and not ``15 - 5 is 7 more than`` or ``3/7
    is equal to $9``."""
    if is_share(left):
        return False
    if sign == WORDED:
        return True
    plain = right.operations == 0 and not any(word.lower() in COMPARES for word in right.words)
    behind = segment[len(right.tokens)] if len(right.tokens) < len(segment) else None
    return plain and left.operations > 0 and (behind is None or behind.text.lower() not in COMPARES)


def is_share(side: Side) -> bool:
    """Whether a side is a fraction or percentage alone, which may be meant of something."""
    tokens = [token for token in side.tokens if token.type != "word"]
    if len(tokens) == 1:
        return tokens[0].text.endswith("%") or "/" in tokens[0].text
    return len(tokens) == 3 and tokens[1].text == "/" and tokens[0].end == tokens[1].start


def is_percentage(side: Side) -> bool:
    """Whether a side is a sum of percentages, which may be meant of something."""
    signs = [token for token in side.tokens if token.type == "operator"]
    numbers = [token for token in side.tokens if token.type == "number"]
    return bool(signs) and all(one.text in "+-" for one in signs) and all(one.text.endswith("%") for one in numbers)


def is_vague(left: Side, right: Side) -> bool:
    """Whether what the sides mean depends on more than they say: a share of something (``1/3 of Solomon``), a time of
    day, a ratio beside a number, a rate with a number in its unit (``5 minutes/100 meters``)."""
    for side, other in ((left, right), (right, left)):
        if is_percentage(side) and not any(token.text.endswith("%") for token in other.tokens):
            return True
        if is_share(side) and side.words and side.words[0] in ("of", "the", "a", "an", "de", "von"):
            return True
        for at, token in enumerate(side.tokens):
            if token.type == "time" or (token.text == ":" and all(one.text != ":" for one in other.tokens)):
                return True
            rate = token.text == "/" and at > 0 and side.tokens[at - 1].type == "word"
            if rate and side.tokens[at - 1].end == token.start and side.tokens[at + 1].start == token.end:
                return True
    return False


def read_segment(tokens: list[Token], leads: bool, follows: bool) -> Segment:
    """A segment; ``leads``: a sign stands before it, ``follows``: one behind it."""
    prefix, used = read_prefix(tokens) if leads else (None, 0)
    if prefix is not None and used == len(tokens):
        return Segment(prefix, prefix, 0, False)
    rest = tokens[used:]
    modulus, soft = 0, False
    if prefix is not None and [token.text for token in rest[:1]] == ["("]:
        inner = [token.text for token in rest[1:4]]
        if inner[:1] in (["mod"], ["modulo"]) and inner[2:] == [")"] and inner[1].isdigit():
            modulus = int(inner[1])
        else:
            soft = rest[1:] != [] and rest[1].type in ("number", "function") and not closes_words(rest)
    if prefix is not None and (is_compound(prefix, rest) or is_spaced(prefix, rest)):
        soft = True
    return Segment(prefix, read_suffix(tokens, first=not leads) if follows else None, modulus, soft)


def closes_words(tokens: Sequence[Token]) -> bool:
    """Whether a bracket says something in words: ``(2 of them red)``, and multiplies nothing."""
    for token in tokens[1:12]:
        if token.type == "close":
            return False
        if token.type in ("word", "relation", "break", "unknown"):
            return True
    return True


def is_spaced(side: Side, rest: Sequence[Token]) -> bool:
    """Whether a lone number may go on behind a space: ``18 000``, ``16 and (2/3)``."""
    if side.operations or side.words or not rest:
        return False
    if [token.text for token in rest[:2]] == ["and", "("] and len(rest) > 3:
        return rest[3].text == "/"
    digits = rest[0].text if rest[0].type == "number" else ""
    return rest[0].start == side.end + 1 and len(digits) == 3 and digits.isdigit()


def is_compound(side: Side, rest: Sequence[Token]) -> bool:
    """Whether a lone number with a unit goes on in a smaller one: ``2 hours and 30 minutes``."""
    if side.operations or not side.words:
        return False
    rest = rest[1:] if rest and rest[0].text in ("and", "y", "und", "et", ",") else rest
    if len(rest) < 2 or rest[0].type != "number" or rest[1].type != "word":
        return False
    families = {unit.family for unit in units_of(side.words[0])}
    return any(unit.family in families for unit in units_of(rest[1].text))


def read_prefix(tokens: list[Token]) -> tuple[Side | None, int]:
    """The longest expression at the beginning, None if an operator or something unknown follows it; and how many
    tokens it takes."""
    if not tokens:
        return None, 0
    try:
        side, used = evaluate(tokens[:LONGEST])
    except Unreadable:
        return None, 0
    follows = tokens[used] if used < len(tokens) else None
    if follows is not None and follows.text in ("R", "r") and side.operations == 0:
        return side, used  # 14 R 2
    if follows is not None and (follows.type in GO_ON or used == LONGEST):
        return None, 0
    return side, used


def read_suffix(tokens: list[Token], first: bool) -> Side | None:
    """The longest expression at the end, None if it is only a part of one or its first number is a name.

    A lone number after words (``of class 2 =``) is a name unless it opens the clause.
    """
    at = max(0, len(tokens) - LONGEST)
    for known in range(len(tokens) - 1, at - 1, -1):
        text = tokens[known].text
        ends = text in CLAUSE and not is_mixed(tokens, known)
        if ends or (tokens[known].type in ("unknown", "break") and text != ","):
            at = known + 1
            break
    for begin in range(at, len(tokens)):
        token = tokens[begin]
        before = tokens[begin - 1].type if begin else ""
        if token.type not in OPERANDS and token.type != "operator":
            continue
        if token.type == "operator" and (token.text not in "+-" or before in ("number", "close", "word")):
            continue
        try:
            side, used = evaluate(tokens[begin:])
        except Unreadable:
            continue
        if used < len(tokens) - begin:
            continue
        if before in ("operator", "number", "unknown", "close", "function", "pi") or is_part(tokens, begin):
            return None
        named = begin > 0 and tokens[begin - 1].text.lower().removesuffix("s") in NAMES and token.type == "number"
        if named or (side.operations == 0 and (before == "word" or not first)):
            return None
        return side
    return None


def is_mixed(tokens: Sequence[Token], at: int) -> bool:
    """Whether ``and`` stands in a mixed number: ``1 and 1/4``."""
    types = [token.type for token in tokens[max(0, at - 1) : at + 3]]
    return types == ["number", "word", "number", "operator"] and tokens[at + 2].text == "/"


def is_part(tokens: Sequence[Token], begin: int) -> bool:
    """Whether what begins here goes on from something that cannot be read: ``25 pupils + his 1 teacher``."""
    last = tokens[begin - 1] if begin else None
    if last is not None and last.type == "word":
        glued = tokens[begin].type == "open" and last.end == tokens[begin].start  # cos(0) + 1
        if glued or last.text.lower() in MULTIPLES:
            return True
    at = begin - 1
    while at >= 0 and tokens[at].type == "word" and tokens[at].text not in CLAUSE:
        at -= 1
    if at < 0 or begin - at > 12:
        return False
    token = tokens[at]
    if token.type == "break":
        return False
    if token.type == "operator":
        return token.text != "-" or at == begin - 1 or (at > 0 and tokens[at - 1].type in ("number", "close"))
    if tokens[begin].type == "open" and at < begin - 1 and token.type in ("number", "close"):
        return True  # 2 hours (120 minutes) + 30 minutes
    if token.type == "number" and at < begin - 1 and begin + 1 < len(tokens):  # 5 feet 6 inches + 6 inches
        families = {unit.family for unit in units_of(tokens[at + 1].text)}
        if not families.isdisjoint(unit.family for unit in units_of(tokens[begin + 1].text)):
            return True
    return at < begin - 1 and tokens[begin - 1].text.lower() in PARTIAL and token.type in ("number", "close")


def head_of(side: Side) -> Side | None:
    """The first number of a side with its unit, or the fraction before an ``of``: where a run-on sign may stop."""
    for at, token in enumerate(side.tokens):
        if token.type == "operator" and at and not (token.text == "/" and is_fraction_head(side.tokens, at)):
            try:
                head, used = evaluate(side.tokens[:at])
            except Unreadable:
                return None
            lone = head.operations == 0 or token.text == "of"
            return head if used == at and lone and head.value(PLAIN) is not None else None
        if token.type in ("open", "function"):
            return None
    return None


def is_fraction_head(tokens: Sequence[Token], at: int) -> bool:
    return at == 1 and len(tokens) > 3 and tokens[3].text == "of" and tokens[2].type == "number"


def is_counted(left: Side, right: Side) -> bool:
    """Whether the left side only names what is counted: ``5 bananas + 12 apples = 5 * $1 + 12 * $2``, ``8 batches =
    5.5 * 8``. Its numbers are operands of more operations on the right."""
    others = any(token.type == "operator" and token.text != "+" for token in left.tokens)
    if others or right.operations <= left.operations:
        return False
    numbers = [token.text for token in left.tokens if token.type == "number"]
    nouns = re.sub(r"\d\w*|\+", "", " ".join("1" if token.type == "number" else token.text for token in left.tokens))
    theirs = [token.text for token in right.tokens if token.type == "number"]
    return bool(nouns.strip()) and len(left.words) >= len(numbers) and all(one in theirs for one in numbers)
