"""The equations of a text, and whether they hold.

An equation is a chain ``a = b = c`` whose sides are arithmetic on numbers: ``+ - * / ^``, ``mod``, ``of`` after a
percentage or fraction, brackets, and the signs and words that mean the same (``×``, ``÷``, ``x``, ``times``, ...).
Numbers may carry a currency sign, thousands separators, a percent sign and units in words (``240 km / 4 km/hour``).

The checker reports an equation as false only if no usual reading makes it true; what it cannot read, it ignores:
- a side with a variable (``2x + 30``, ``137 + T``) or an operator without its operand drops out of its chain;
- a side of more than 60 tokens drops out too: it is not read in parts;
- a chain without any operation is no equation (``Class 2 = 15``);
- the text before the first side and after the last one may be words: the longest expression at the sign counts;
- ``+`` and ``-`` between a percentage and a plain number have no one meaning: that side drops out;
- ``12 ÷ 1/2`` may mean (12/1)/2 or 12/(1/2): a fraction written without spaces may bind tighter;
- ``3 / 4 * 100 = 75%``: beside a percentage, a plain number may count percents;
- ``6 + 7 = 3 mod 10`` may mean a congruence;
- a false chain that names units of two sizes (``2 hours + 30 minutes = 150 minutes``) is ignored.

Arithmetic is exact (``fractions.Fraction``). A decimal with k places holds if rounding or cutting the exact value
to k places gives it: ``10 / 3 = 3.33``, ``2 / 3 = 0.66``, but an integer holds only exactly. A decimal of 5 or
more places that enters a side is taken as rounded itself (``0.33333 * 48 = 16``): it allows a relative error of
10^(1-k), counted on the largest operand or result.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from tracestill.data_pipeline.soundness.expressions import Side, Token, Unreadable, evaluate, tokens_of

LONGEST = 60  # tokens of a side; a longer one is not read
UNIT_FAMILIES = (
    "second minute hour day week month year decade century",
    "cent penny dollar euro pound pence dime nickel quarter",
    "inch foot feet yard mile millimeter centimeter meter kilometer mm cm m km",
    "gram kilogram ounce pound ton g kg mg",
    "milliliter liter litre ml l cup pint quart gallon teaspoon tablespoon",
    "hundred thousand million billion trillion dozen",
)
UNITS = {unit: family for family, units in enumerate(UNIT_FAMILIES) for unit in units.split()}
SCALES = frozenset(UNIT_FAMILIES[-1].split())


@dataclass(frozen=True)
class Equation:
    """A chain of sides: where it stands in the text, its normalised form, and whether every ``=`` in it holds."""

    start: int
    end: int
    text: str
    path: str  # numbers and operators alone, equal for equal steps whatever words stand between them
    holds: bool


def equations(text: str) -> list[Equation]:
    """The equations of ``text`` in order of appearance."""
    found = []
    for clause in chains(tokens_of(text)):
        sides = read_sides(clause)
        for group in runs(sides):
            if len(group) < 2 or not any(side.operations for side in group):
                continue
            holds = all(equal(left, right) for left, right in pairwise(group))
            if not holds and names_two_sizes(clause):
                continue
            start, end = group[0].start, group[-1].end
            found.append(Equation(start, end, text[start:end], "=".join(side.path for side in group), holds))
    return found


def chains(tokens: Sequence[Token]) -> Iterator[list[list[Token]]]:
    """Stretches of tokens between breaks, split at equality signs: at least two segments each."""
    segments: list[list[Token]] = [[]]
    for token in tokens:
        if token.type == "break":
            if len(segments) > 1:
                yield segments
            segments = [[]]
        elif token.type == "equals":
            segments.append([])
        else:
            segments[-1].append(token)
    if len(segments) > 1:
        yield segments


def read_sides(segments: list[list[Token]]) -> list[tuple[Side | None, Side | None]]:
    """For each segment the side that it gives to the sign before it and to the one after it, None if unreadable.

    They are the same side if the whole segment is one expression (with words behind it).
    """
    sides: list[tuple[Side | None, Side | None]] = []
    for at, segment in enumerate(segments):
        prefix, whole = read_prefix(segment) if at > 0 else (None, False)
        if whole:
            sides.append((prefix, prefix))
        else:
            last = at + 1 == len(segments)
            sides.append((prefix, None if last else read_suffix(segment, first=at == 0)))
    return sides


def runs(sides: list[tuple[Side | None, Side | None]]) -> Iterator[list[Side]]:
    """Chains of readable sides that are joined by equality signs."""
    run = [sides[0][1]] if sides[0][1] is not None else []
    for prefix, suffix in sides[1:]:
        if prefix is not None:
            run.append(prefix)
        if prefix is None or suffix is not prefix:
            yield run
            run = [suffix] if suffix is not None else []
    yield run


def read_prefix(tokens: list[Token]) -> tuple[Side | None, bool]:
    """The longest expression at the beginning, None if an operator or something unknown follows it; and whether it
    takes all tokens."""
    try:
        side, used = evaluate(tokens[:LONGEST])
    except Unreadable:
        return None, False
    follows = tokens[used : used + 2]
    congruence = [token.text for token in follows] in (["(", "mod"], ["(", "modulo"])
    if congruence or (follows and follows[0].type in ("operator", "unknown")):
        return None, False
    return side, used == len(tokens)


def read_suffix(tokens: list[Token], first: bool) -> Side | None:
    """The longest expression at the end, None if an operator, a number or something unknown stands before it.

    A lone number after words (``of class 2 =``) is a name unless it opens the clause.
    """
    for at in range(max(0, len(tokens) - LONGEST), len(tokens)):
        token = tokens[at]
        if token.type not in ("number", "open", "operator"):
            continue
        before = tokens[at - 1].type if at else ""
        if token.type == "operator" and (token.text not in "+-" or before in ("number", "close", "word")):
            continue
        try:
            side, used = evaluate(tokens[at:])
        except Unreadable:
            continue
        if used < len(tokens) - at:
            continue
        if before in ("operator", "number", "unknown", "close"):
            return None
        return None if side.operations == 0 and (before == "word" or not first) else side
    return None


def equal(left: Side, right: Side) -> bool:
    """Whether two sides are equal under some reading of each."""
    modulus = re.search(r"mod(\d+)$", right.path)
    for a in left.values:
        for b in right.values:
            if modulus and int(modulus[1]) and (a - b) % int(modulus[1]) == 0:
                return True
            if close(a, b, left, right):
                return True
            if left.percent != right.percent and (
                close(a * 100, b, left, right) if left.percent else close(a, b * 100, left, right)
            ):
                return True
    return False


def close(a: Fraction, b: Fraction, left: Side, right: Side) -> bool:
    return (
        abs(a - b) <= max(left.noise, right.noise) * max(left.largest, right.largest, abs(a), abs(b))
        or is_rounded(a, b, left)
        or is_rounded(b, a, right)
    )


def is_rounded(stated: Fraction, exact: Fraction, side: Side) -> bool:
    """Whether ``stated``, a lone decimal, is ``exact`` rounded or cut to its number of places."""
    if side.operations or side.places == 0:
        return False
    unit = Fraction(1, 10**side.places) / (100 if side.percent else 1)
    if abs(stated - exact) * 2 <= unit:
        return True
    return abs(stated) <= abs(exact) < abs(stated) + unit and stated * exact > 0


def names_two_sizes(segments: list[list[Token]]) -> bool:
    """Whether a chain names two units of one family, or a word such as ``million``; rates (``km/hour``) aside."""
    named: dict[int, set[str]] = {}
    for segment in segments:
        before = ""
        for token in segment:
            unit = singular(token.text.lower()) if token.type == "word" and before not in ("/", "per") else ""
            if unit in SCALES:
                return True
            if unit in UNITS:
                named.setdefault(UNITS[unit], set()).add(unit)
            before = token.text
    return any(len(units) > 1 for units in named.values())


def singular(word: str) -> str:
    return word if word in UNITS else word.removesuffix("es" if word == "inches" else "s")
