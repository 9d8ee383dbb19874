"""Equations with letters (``algebra``): what is linear in its letters, exactly, from step to step.

    40 - 12 - 3x = 19        -3x = -19         false: the first says x = 3, this x = 19/3

A letter stands for one value in the whole trace until it is introduced again (``let x be``), unless it has a power or
stands in two factors (``x^2``, ``(x - 1)(x - 6) = 0``). False are

- an equation that no value solves, or only 0 where both sides have the letter: ``(60x * 5) / 15 = 40x``, ``x + 2 = x``;
- one whose solution is not the value that an earlier equation gave to the letter; of several letters, those whose
  values are known are put in (``A - B = -14 - 2``).

After a false equation the trace is followed from what it says. What it soon takes back is not false. What is not
linear, has a letter that may be a unit, or cannot be read as a whole, is left alone. Values may differ by rounding,
half a percent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace
from tracestill.data_pipeline.soundness.checkers.linear import Poly, chains, is_letter, plus, prefix, suffix

NEAR = Fraction(1, 200)
AGAIN = re.compile(
    r"\b(?:let (?!us\b|me\b)|let(?:['’]s| us) (?:say|call|denote|assume|define|use|make|suppose)\b"
    r"|denote|assume|suppose|where|define|represents?|call|if|or|either|mistake|error|instead|repeat(?:ing)?|check)\b",
    re.I,
)
SOON = 300  # characters in which a trace takes back what it said
BACK = re.compile(
    r"\b(?:wait|(?:made|was|is) an? (?:mistake|error)|re-?examine|try again|correct (?:it|this)\b(?! answer)"
    r"|th(?:at|is)(?: is|['’]s) (?:still )?(?:wrong|incorrect|not right|not true))\b",
    re.I,
)
MEASURE = re.compile(
    r"\b(?:cent|dollar|second|minute|hour|day|week|inch|feet|foot|meter|gram|mm|cm|km|kg|ml)(?:s|es)?\b"
)
POWER = re.compile(r"(?<![^\W\d_])([^\W\d_])\s?(?:\^|\*\*|[²³⁴])")
FACTORS = re.compile(r"\([^()\n]{0,20}?(?<![^\W\d_])([^\W\d_])(?![^\W\d_])[^()\n]{0,20}\)\s?\([^()\n]{1,40}\)\s*=\s*0")
UNIT = 12  # characters behind an equation in which its unit stands
RATIOS = frozenset(ratio for n in (7, 12, 24, 60, 100, 1000, 3600) for ratio in (Fraction(n), Fraction(1, n)))


def algebra(trace: Trace) -> Iterator[Finding]:
    lexed = trace.lexed
    if not any(is_letter(trace.text, lexed, at) for at in range(len(lexed.types))):
        return
    several = {found[1] for pattern in (POWER, FACTORS) for found in pattern.finditer(trace.text)}
    known: dict[str, Fraction] = {}
    plain: set[str] = set()
    read = 0
    for chain in chains(trace.text, lexed):
        begin, end = lexed.starts[chain[0][0]], lexed.ends[chain[-1][1] - 1]
        if AGAIN.search(trace.text, min(read, begin), end):
            known.clear()
        read = end
        for before, behind in pairwise(chain):
            left, right = suffix(trace.text, lexed, *before), prefix(trace.text, lexed, *behind)
            if left is None or right is None or not {*left[0], *right[0]} - {""}:
                continue
            for letter in several:
                known.pop(letter, None)
            before_it = dict(known)
            detail = fault(left[0], right[0], known, plain)
            if detail and other_unit(before_it, known, trace.text[left[1] : right[2] + UNIT]):
                yield Finding(left[1], right[2], "cannot_tell", f"{detail}; the unit may have changed")
            elif detail and BACK.search(trace.text, right[2], right[2] + SOON):
                yield Finding(left[1], right[2], "cannot_tell", f"{detail}; it seems to be taken back")
                known.clear()
            elif detail is not None:
                yield Finding(left[1], right[2], "false" if detail else "holds", detail)


def fault(left: Poly, right: Poly, known: dict[str, Fraction], plain: set[str]) -> str | None:
    """What is wrong with an equation, empty if nothing is; None if there is nothing to hold it against. Learns
    what letters are; ``plain``: those that were told to be some number, and may be told to be another (``day = 2``)."""
    both = set(left) & set(right) - {""}
    difference = plus(left, right, -1)
    for letter in set(difference) - {""}:
        if near(left.get(letter, Fraction(0)), right.get(letter, Fraction(0))):
            del difference[letter]
    letters = set(difference) - {""}
    alone = difference.get("", Fraction(0))
    if not letters:
        if near(left.get("", Fraction(0)), right.get("", Fraction(0))):
            return ""
        assigned = min(len(left), len(right)) == 1  # ``x = x + 1`` of a program
        return None if assigned or not both else "no value solves it"
    if len(letters) > 1:
        if not letters <= known.keys():
            return None
        rest = alone + sum((difference[letter] * known[letter] for letter in letters), Fraction(0))
        size = sum(abs(difference[letter] * known[letter]) for letter in letters)
        said = ", ".join(f"{letter} = {shown(known[letter])}" for letter in sorted(letters))
        return "" if abs(rest) <= NEAR * max(size, abs(alone)) else f"it does not hold with {said}"
    (letter,) = letters
    value = -alone / difference[letter]
    if value == 0 and both and known.get(letter) != 0:
        return f"true only if {letter} is 0"
    assigned = {letter: Fraction(1)} in (left, right) and not both
    if letter not in known:
        known[letter] = value
        (plain.add if assigned else plain.discard)(letter)
        return None
    before, known[letter] = known[letter], value
    if near(before, value):
        return ""
    if assigned and letter in plain:
        return None
    return f"{letter} is {shown(value)} by this, and {shown(before)} before"


def other_unit(before: dict[str, Fraction], now: dict[str, Fraction], text: str) -> bool:
    """Whether a letter may have got another value because it is told in another unit: ``3x = 1 hour``, then
    ``3x = 60 minutes``."""
    if MEASURE.search(text) is None:
        return False
    return any(letter in before and value and before[letter] and before[letter] / value in RATIOS
               for letter, value in now.items() if before.get(letter) != value)  # fmt: skip


def shown(value: Fraction) -> str:
    return str(value) if value.denominator < 100 else f"{float(value):.6g}"


def near(one: Fraction, other: Fraction) -> bool:
    return abs(one - other) <= NEAR * max(abs(one), abs(other))
