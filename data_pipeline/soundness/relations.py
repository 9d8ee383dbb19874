"""Whether two sides are related as the sign between them says, under one of their usual readings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import combinations, islice, permutations
from typing import NamedTuple

from tracestill.data_pipeline.soundness import context
from tracestill.data_pipeline.soundness.expressions import Side
from tracestill.data_pipeline.soundness.reader import CONVERTED, PER, PLAIN, Outcome, Reading
from tracestill.data_pipeline.soundness.sides import is_vague
from tracestill.data_pipeline.soundness.units import COUNT, VAGUE, VAGUE_PAIRS, counts_whole, units_of

MOST = 24  # readings of a side
ABOUT = Fraction(1, 20)  # relative error that ≈ allows at most
CLOCKS = (7, 12, 24, 60)


class Verdict(NamedTuple):
    """``holds``: None where it cannot be told. ``why``: the reading by which it holds, else those that were tried."""

    holds: bool | None
    why: tuple[str, ...]


class Place(NamedTuple):
    """Where the chain of the two sides stands, and what is known of it."""

    text: str
    start: int
    end: int
    modulus: int
    sizes: dict[str, Fraction]  # of the units that it names, where it names two of a kind
    vague: bool  # whether it names units without one size


def related(left: Side, sign: str, right: Side, place: Place) -> Verdict:
    plain = left.value(PLAIN), right.value(PLAIN)
    if plain[0] is not None and plain[1] is not None and fits(plain[0], plain[1], sign, left, right):
        return Verdict(True, ("as written",))
    tried = ["as written"]
    lefts, rights = list(outcomes(left)), list(outcomes(right))
    for names_left, a in lefts:
        for names_right, b in rights:
            names = tuple(sorted(names_left | names_right))
            tried += [name for name in names if name not in tried]
            if fits(a, b, sign, left, right):
                return Verdict(True, names)
    if sign in "<>≤≥":
        return Verdict(None if place.sizes or place.vague else False, tuple(tried))
    for name, holds in others(left, right, place, lefts, rights):
        tried.append(name)
        if holds:
            return Verdict(True, (name,))
    unsure = place.vague or is_vague(left, right) or (place.sizes and is_uneven(left, right, place.sizes))
    return Verdict(None if unsure else False, tuple(dict.fromkeys(tried)))


def outcomes(side: Side) -> Iterator[tuple[frozenset[str], Outcome]]:
    """The value of each reading of a side."""
    names = sorted(side.could)
    sets = (frozenset(some) for count in range(len(names) + 1) for some in combinations(names, count))
    seen: set[tuple[Fraction, bool]] = set()
    for some in islice(sets, MOST):
        found = side.value(Reading(some))
        if found is not None and (found.number, found.percent) not in seen:
            seen.add((found.number, found.percent))
            yield some, found


def others(
    left: Side,
    right: Side,
    place: Place,
    lefts: list[tuple[frozenset[str], Outcome]],
    rights: list[tuple[frozenset[str], Outcome]],
) -> Iterator[tuple[str, bool]]:
    """Readings that need more than the sides: (name, whether it makes them equal)."""
    pairs = [(a, b) for _, a in lefts for _, b in rights]
    if place.sizes:
        yield (
            CONVERTED,
            any(
                converted(left, right, Reading(frozenset({CONVERTED, *some}), place.sizes))
                for some in ((), *((name,) for name in left.could | right.could))
            ),
        )
    if place.modulus:
        yield "congruent", any((a.number - b.number) % place.modulus == 0 for a, b in pairs)
    timed = any(token.type == "time" for token in (*left.tokens, *right.tokens))
    timed = timed or any(t.text.isdigit() and len(t.text) == 4 and t.text[0] == "0" for t in left.tokens)
    adds = all(token.text in "+-" for token in left.tokens if token.type == "operator")
    if adds and (timed or context.is_on_clock(place.text, place.start, place.end)):
        yield "on a clock", any((a.number - b.number) % m == 0 and 0 <= b.number <= m for a, b in pairs for m in CLOCKS)
        yield "hours and minutes", any(hhmm(left, right)) or any(a.number * 60 == b.number for a, b in pairs)
    if left.operations and (scales := context.scales(place.text, place.start)):
        ratios = [ratio for scale in scales for ratio in (scale, Fraction(1, scale))]
        yield "told in another size", any(a.number * ratio == b.number for a, b in pairs for ratio in ratios)
    if (named := context.remainder(place.text, right.end)) is not None and right.operations == 0:
        yield "with a remainder", any(divides(left, a.number, b.number, named) for a, b in pairs)
    elif (  # by words, or as 48 / 5 = 9.6 = 10
        left.places and not (left.operations or right.operations or right.places)
    ) or context.is_rounded_by_words(place.text, place.start, place.end):
        yield "rounded", any(loosely(a, b, left, right) for a, b in pairs)
    elif is_quotient(left) and right.operations == right.places == 0 and counts_whole(named_by(left, right, place)):
        down, up = context.roundings(place.text, place.start, place.end)
        yield (
            "rounded to whole things",
            any(loosely(a, b, left, right) and (down if b.number < a.number else up) for a, b in pairs),
        )
    elif is_quotient(left) and context.is_rounded_later(place.text, place.end):
        yield "rounded", any(loosely(a, b, left, right) for a, b in pairs)


def is_quotient(side: Side) -> bool:
    """Whether a side divides, and neither adds nor subtracts but in brackets."""
    depth, divides = 0, False
    for token in side.tokens:
        depth += (token.type == "open") - (token.type == "close")
        if depth == 0 and token.type == "operator" and token.text in "+-":
            return False
        divides = divides or (depth == 0 and token.text in ("/", "frac"))
    return divides


def named_by(left: Side, stated: Side, place: Place) -> list[str]:
    """What a lone number counts: the words behind it, or, of a quotient of whole numbers, those elsewhere in its
    sentence (``number of buses = 130 / 40 = 3``)."""
    if any(token.unit for token in stated.tokens):
        return []  # money
    if stated.words or left.places:
        return stated.words
    number = next((token.text for token in stated.tokens if token.type == "number"), "")
    return context.counted(place.text, place.start, place.end, number)


def fits(a: Outcome, b: Outcome, sign: str, left: Side, right: Side) -> bool:
    x, y = a.number, b.number
    if sign in "<≤":
        return x < y or (sign == "≤" and x == y)
    if sign in ">≥":
        return x > y or (sign == "≥" and x == y)
    if close(x, y, a, b, left, right):
        return True
    if a.percent != b.percent:
        x, y = (x * 100, y) if a.percent else (x, y * 100)
        if close(x, y, a._replace(percent=False), b._replace(percent=False), left, right):
            return True
    if sign != "≈":
        return False
    return loosely(a, b, left, right) or abs(x - y) <= ABOUT * max(abs(x), abs(y))


def close(x: Fraction, y: Fraction, a: Outcome, b: Outcome, left: Side, right: Side) -> bool:
    if x == y:
        return True
    noise = max(a.noise, b.noise)
    if noise and abs(x - y) <= noise * max(a.largest, b.largest, abs(x), abs(y)):
        return True
    return is_rounded(x, y, left, a.percent) or is_rounded(y, x, right, b.percent)


def is_rounded(stated: Fraction, exact: Fraction, side: Side, percent: bool, size: Fraction = Fraction(1)) -> bool:
    """Whether ``stated``, a lone decimal, is ``exact`` rounded or cut to its number of places."""
    if side.operations or (side.places == 0 and not percent):
        return False
    unit = Fraction(1, 10**side.places) / (100 if percent else 1) * size
    if abs(stated - exact) * 2 <= unit:
        return True
    return abs(stated) <= abs(exact) < abs(stated) + unit and stated * exact > 0


def loosely(a: Outcome, b: Outcome, left: Side, right: Side) -> bool:
    """Whether one is a lone number, and the other one needs more places than it has: up, down or to the nearest."""
    for stated, exact, side in ((b, a, right), (a, b, left)):
        if side.operations:
            continue
        unit = Fraction(1, 10**side.places) / (100 if stated.percent else 1)
        for scale in (1,) if stated.percent == exact.percent else (1, Fraction(1, 100) if stated.percent else 100):
            value = exact.number * scale
            if abs(stated.number - value) < unit and (value / unit).denominator != 1:
                return True
    return False


def converted(left: Side, right: Side, reading: Reading) -> bool:
    """Whether the sides are equal with units converted, or their numbers are in the ratio of two units named."""
    a, b = left.value(reading), right.value(reading)
    if a is None or b is None:
        return False
    sizes = {Fraction(1), *reading.sizes.values()}
    ratios = {one / other for one, other in permutations(sizes, 2)} | {Fraction(1)}
    plain = [side.value(Reading(reading.names - {CONVERTED})) for side in (left, right)]
    for x, y in ((a, b), *([(plain[0], plain[1])] if plain[0] and plain[1] else [])):
        assert x is not None
        assert y is not None
        for ratio in ratios:
            scaled = x.number * ratio
            if scaled == y.number or is_rounded(y.number, scaled, right, y.percent, y.size or Fraction(1)):
                return True
    return False


def is_uneven(left: Side, right: Side, sizes: dict[str, Fraction]) -> bool:
    """Whether a sum has terms with and without a unit: ``3 hours + 20``."""
    if all(unit.family == COUNT for word in sizes for unit in units_of(word)):
        return False  # 2 dozen + 10
    found = [side.value(Reading(frozenset({CONVERTED}), sizes)) for side in (left, right)]
    return any(one is not None and one.uneven for one in found)


def sizes_of(sides: list[Side]) -> tuple[dict[str, Fraction], bool]:
    """Sizes of the units that sides name, by word, if two of one family differ (or one counts, as ``dozen``); and
    whether one has no certain size, or units of two families cannot be told apart."""
    names = {name for side in sides for name in unit_words(side)}
    named: dict[str, dict[str, Fraction]] = {}
    for name in names:
        for unit in units_of(name):
            named.setdefault(unit.family, {})[name] = unit.size
    sizes: dict[str, Fraction] = {}
    for family, found in named.items():
        if len(set(found.values())) > 1 or family == COUNT:
            sizes.update(found)
    vague = any(one in named and other in named for one, other in VAGUE_PAIRS)
    families = {"", *named}
    return sizes, vague or any(not families.isdisjoint(VAGUE.get(name.lower().removesuffix("s"), ())) for name in names)


def unit_words(side: Side) -> Iterator[str]:
    """Words that may name units: the first one behind an operand, and those behind ``/`` and ``per``."""
    for at, token in enumerate(side.tokens):
        if token.unit:
            yield token.unit
        if token.type != "word" or not at:
            continue
        before = side.tokens[at - 1]
        followed = at + 1 < len(side.tokens) and side.tokens[at + 1].type == "word"
        if (before.type == "word" and before.text.lower() not in PER) or (token.text == "in" and followed):
            continue
        for part in re.sub("[²³]", "", token.text).split("/"):
            yield part.partition("^")[0]


def divides(left: Side, quotient: Fraction, stated: Fraction, rest: str) -> bool:
    """Whether ``stated`` is the whole part of a quotient, and the rest, where it is named, is right."""
    if stated.denominator != 1 or not 0 <= quotient - stated < 1:
        return False
    divisors = [token.text for token in left.tokens if token.type == "number"]
    if not rest or left.operations != 1 or not divisors[-1].isdigit():
        return True
    return (quotient - stated) * int(divisors[-1]) == int(rest)


def hhmm(left: Side, right: Side) -> Iterator[bool]:
    """``0900 - 0130 = 0730``: four digits that are hours and minutes."""
    sides = [[token for token in side.tokens if token.type != "word"] for side in (left, right)]
    if len(sides[0]) != 3 or len(sides[1]) != 1 or sides[0][1].text not in "+-":
        return
    texts = [token.text for token in (*sides[0][::2], *sides[1])]
    if all(text.isdigit() for text in texts):
        a, b, c = (int(text[:-2] or 0) * 60 + int(text[-2:]) for text in texts)
        yield (a + b - c if sides[0][1].text == "+" else a - b - c) % 1440 in (0, 720)
