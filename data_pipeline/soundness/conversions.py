"""Conversions of units that a text states without computing them: ``2 hours = 120 minutes``, ``3 dozen = 36 eggs``.

Both sides are quantities, and both units of one family (units.py). Only what stands in a clause of its own is read:
``the time saved in 2 hours = 30 minutes`` says something else. It is false only if no usual reading makes it true. What
these leave open is not told:
- ``1 inch = 4 miles`` and whatever else gives no fewer of the larger unit than of the smaller one: a scale;
- ``1 day = 8 hours``, ``1 week = 5 days``: of work;
- an ounce, which is of weight or of volume, and a tablespoon; what one currency is in another, rates, prices.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

from tracestill.data_pipeline.answers.numbers.words import UNITS as WORDS
from tracestill.data_pipeline.soundness import context
from tracestill.data_pipeline.soundness.equations import Equation
from tracestill.data_pipeline.soundness.tokens import MAX_DIGITS, VULGAR, number_token, without_markup
from tracestill.data_pipeline.soundness.units import COUNT, WHOLE_UNITS, Unit, units_of

SPOKEN = {"a": 1, "an": 1, **{word: at for at, word in enumerate(WORDS) if at}}
DIGITS = rf"(?:\d+ \d+/\d+|\d+/\d+|\d+(?:,\d+)*(?:\.\d+)?[{''.join(VULGAR)}]?|\.\d+|[{''.join(VULGAR)}])"
QUANTITY = re.compile(
    rf"(?<![\w.,/^$€£])(?:(?P<money>[$€£])\s?(?P<amount>\d+(?:,\d+)*(?:\.\d+)?)(?![\d.]*\w)"
    rf"|(?P<number>{DIGITS}|\b(?i:{'|'.join(SPOKEN)})\b)(?:[ \u00a0]{{0,14}}|-)(?P<unit>[^\W\d_]{{1,20}})\b(?![\^²³])"
    rf"|(?P<bare>{DIGITS})(?!\w|[./]\d))"
)
SAID = "is|are|es|son|ist|sind|est|sont"
SIGN = re.compile(rf"\s*(?:=|equals|(?:is|are) equal to|(?P<said>{SAID}))\s*")
MAYBE = re.compile(  # a sign and a number behind it, where a text without any is not looked at
    rf"(?:=|\b(?:equals?|equal to|{SAID})\b)\s?[$€£]?(?:\d|\.\d|[{''.join(VULGAR)}]|(?:{'|'.join(SPOKEN)})\b)"
)
SYMBOLS = frozenset("mshglL")  # letters that are units by themselves
JOINED = re.compile(r"\s*(?:,\s*)?(?:(?:and|y|und|et)\s+)?")
NOUN = re.compile(r"\s+(?:of\s+)?(?P<noun>[a-z]{3,20})\b")  # 3 dozen eggs
OPENS = re.compile(  # what may stand before a conversion
    r"(?:^|[.!?;:,\n(\[]|(?:,\s*and|\b(?:so|since|because|as|that|thus|then|therefore|hence|know|means|remember|"
    r"como|entonces|da|weil|also|donc|puisque|car)))[\s*]*$",
    re.I,
)
SOON = 10  # conversions among which a false one is looked for said again, and rightly
AHEAD = 40  # characters in which that is looked for
GOES_ON = re.compile(  # what stands behind the right side of no conversion
    r"\s*(?:[-+*/×÷^·%²³]|\\|\(?\d|(?:per|an?|each|every|for|at|more|less|fewer|longer|shorter|later|earlier|ahead|"
    r"behind|times|x|left|remaining|short|faster|slower|taller|away|older|younger|in|on|than|from|after|before)\b"
    r"|\([^()]{0,40}\)\s*[-+*/×÷]|(?:,|,?\s*and\b)\s*\d[\d.,]*\s+[^\W\d_]+\b(?!\s*(?:=|is\b|are\b|equals?\b)))",
    re.I,
)
CLAUSE_ENDS = re.compile(r"\s*(?:[.,;:!?)\]\n]|$|(?:so|and|which|or|then)\b)")
SHORT_HOURS = re.compile(r"\b(?:lesson|class|school|academic|lecture|period|credit)", re.I)
MAJOR = re.compile(r"[$€£¥₹]|\b(?:dollar|euro|pound|peso|yen|rupee|franc)s?\b", re.I)
HOLDERS = "box pack bag carton basket tray crate case set group team page row batch bottle jar bunch bouquet"
PACKED = frozenset(form for word in HOLDERS.split() for form in (word, f"{word}s", f"{word}es")) | {"batches", "boxes"}
OFTEN_LESS = {  # a day of work has 8 hours, a year of school 9 months: sizes of the larger and the smaller unit
    "time": {(86400, 3600), (86400, 60), (604800, 86400), (604800, 3600)},
    "calendar": {(12, 1)},
}


class Amount(NamedTuple):
    """A quantity, or a sum of some: ``2 hours 10 minutes``."""

    start: int
    end: int
    values: tuple[Fraction, ...]  # of each convention of separators, in the last unit
    places: int  # decimals
    units: tuple[Unit, ...]  # that its word may name; none: a noun
    word: str
    spoken: bool = False  # its number is a word
    noun: str = ""  # behind a unit that counts: ``3 dozen eggs``
    joint: bool = False  # a sum


def conversions(text: str) -> list[Equation]:
    """The conversions of a text that can be told, in order; ``path`` is empty: nothing is computed."""
    if "dozen" not in text and not any(is_likely(text, match.start()) for match in MAYBE.finditer(text)):
        return []
    plain = without_markup(text)
    found: list[Equation] = []
    for left, right, said in pairs(plain):
        goes_on = bool(found) and found[-1].end == left.end  # 2 hours = 120 minutes = 7200 seconds
        begin = max(0, left.start - AHEAD)
        if goes_on or OPENS.search("x" * (begin > 0) + plain[begin : left.start]):
            found += judged(plain, left, right, said)
    found = [replace(one, text=text[one.start : one.end]) for one in found]
    later = [found[at + 1 : at + 1 + SOON] for at in range(len(found))]
    return [
        one
        for one, others in zip(found, later, strict=True)
        if one.holds or not any(is_mended(one, other) for other in others)
    ]


def is_likely(text: str, at: int) -> bool:
    """Whether a unit or money stands before a sign."""
    words = text[max(0, at - 30) : at].split()
    while words and words[-1] in ("is", "are"):
        words.pop()
    last = words[-1].lstrip("0123456789.,({").rstrip("}") if words else ""
    return last[:1] in ("$", "€", "£") or (last.isalpha() and bool(units_of(last)))


def is_mended(one: Equation, other: Equation) -> bool:
    left = one.text.partition("=")[0]
    return other.holds and 0 <= other.start - one.end < context.FAR and other.text.startswith(left)


def pairs(text: str) -> Iterator[tuple[Amount, Amount, bool]]:
    """Amounts with a sign of equality between them, and whether it is a word."""
    amounts = list(joined(text, list(read(text))))
    for left, right in pairwise(amounts):
        gap = text[left.end : right.start]
        noun = NOUN.match(text, left.end, right.start) if left.units and left.units[0].family == COUNT else None
        sign = SIGN.fullmatch(text[noun.end() if noun else left.end : right.start] if noun else gap)
        if sign is None and noun is not None:
            noun, sign = None, SIGN.fullmatch(gap)
        if sign is not None:
            yield left._replace(noun=noun["noun"] if noun else ""), right, sign["said"] is not None


def read(text: str) -> Iterator[Amount]:
    for match in QUANTITY.finditer(text):
        raw = match["amount"] or match["number"] or match["bare"]
        word = match["unit"] or match["money"] or ""
        spoken = raw.lower() in SPOKEN
        if spoken:
            values: tuple[Fraction, ...] = (Fraction(SPOKEN[raw.lower()]),)
        else:
            values = values_of(raw)
        places = len(raw.partition(".")[2]) if not spoken else 0
        yield Amount(
            match.start(),
            match.end(),
            values,
            places,
            tuple(units_of(word) if len(word) > 1 or word in SYMBOLS or match["money"] else ()),
            word,
            spoken,
        )


@lru_cache(4096)
def values_of(raw: str) -> tuple[Fraction, ...]:
    if len(raw) > MAX_DIGITS:
        return ()
    whole, _, part = raw.rpartition(" ")
    if "/" in part:
        top, below = part.split("/")
        return (int(whole or 0) + Fraction(int(top), int(below)),) if int(below) else ()
    token = number_token(raw.rstrip(","), 0, len(raw))
    return tuple(Fraction(one) for one in (token.text, token.other) if one)


def joined(text: str, found: list[Amount]) -> Iterator[Amount]:
    """Amounts with those of a smaller unit of their family, which stand behind them, added."""
    held: Amount | None = None
    for one in found:
        if held is not None and JOINED.fullmatch(text, held.end, one.start) and (sum_ := added(held, one)) is not None:
            held = sum_
            continue
        if held is not None:
            yield held
        held = one
    if held is not None:
        yield held


def added(large: Amount, small: Amount) -> Amount | None:
    for one in large.units:
        for other in small.units:
            if one.family == other.family and one.size > other.size and large.values and small.values:
                total = large.values[0] * one.size / other.size + small.values[0]
                return small._replace(start=large.start, values=(total,), units=(other,), joint=True)
    return None


def judged(text: str, left: Amount, right: Amount, said: bool) -> Iterator[Equation]:
    """The conversion, if it can be told whether it holds."""
    if not left.values or not right.values or GOES_ON.match(text, right.end):
        return
    if said and not CLAUSE_ENDS.match(text, right.end):
        return
    told = [found for one, other in related(left, right) if (found := holds(text, left, one, right, other)) is not None]
    if not any(told):
        back = context.is_taken_back(text, right.end) or context.is_supposed(text, left.start, right.end, False)
        if not told or back or is_open(text, left, right):
            return
    yield Equation(left.start, right.end, text[left.start : right.end], "", any(told), ("units converted",))


def related(left: Amount, right: Amount) -> Iterator[tuple[Unit, Unit]]:
    """Units of one family and of different size, by which both sides may be meant."""
    yield from (
        (one, other)
        for one in left.units
        for other in right.units
        if one.family == other.family and (one.size != other.size or left.joint or right.joint)
    )
    single = Unit(COUNT, Fraction(1))
    if not right.units and is_of(left, right):
        yield from ((one, single) for one in left.units if one.family == COUNT and one.size >= 12)
    if not left.units and is_of(right, left):
        yield from ((single, one) for one in right.units if one.family == COUNT and one.size >= 12)


def is_of(counted: Amount, things: Amount) -> bool:
    """Whether the things are what dozens are of, and not what holds these."""
    if things.start < counted.start and not things.word:
        return False  # 84/12 = 7 dozens
    return counted.noun.rstrip("s") in ("", things.word.rstrip("s")) and things.word.lower() not in PACKED


def holds(text: str, left: Amount, one: Unit, right: Amount, other: Unit) -> bool | None:
    """By these units; None for what is no conversion by them, or of work hours and the like."""
    known = False
    for value in left.values:
        for stated in right.values:
            exact = value * one.size / other.size
            if exact == stated or rounded(text, left, one, right, other, value, stated):
                return True
            grows = other.size < one.size
            sizes = (int(max(one.size, other.size)), int(min(one.size, other.size)))
            short = sizes in OFTEN_LESS.get(one.family, ()) and (stated < exact if grows else stated > exact)
            turns = one.size == other.size or grows == (stated > value)
            known = known or (value > 0 and stated > 0 and turns and not short)
    return False if known else None


def rounded(text: str, left: Amount, one: Unit, right: Amount, other: Unit, value: Fraction, stated: Fraction) -> bool:
    """Whether one side is the other to the places that it has, or whole where the words, or the unit, say so."""
    loose = context.is_rounded_by_words(text, left.start, right.end) or context.remainder(text, right.end) is not None
    exact = value * one.size / other.size
    for amount, lone, whole in ((right, stated, exact), (left, value, stated * other.size / one.size)):
        step = Fraction(1, 10**amount.places)
        off = abs(lone - whole)
        if amount.places and (2 * off <= step or (lone <= whole and off < step)):
            return True
        if off < step and loose:
            return True
    larger = other.size > one.size and other.size in WHOLE_UNITS.get(other.family, ())
    return larger and stated == exact // 1 > 0  # 365 days = 52 weeks


def is_open(text: str, left: Amount, right: Amount) -> bool:
    """Whether a conversion that is off may be meant in a way that is not read here."""
    families = {unit.family for unit in (*left.units, *right.units)}
    units = {unit.size for amount in (left, right) for unit in amount.units}
    if "kitchen" in families:
        return len(families) > 1 or 3 in units
    if "money" in families:
        coin = any(amount.word.lower().rstrip("s") == "quarter" and amount.spoken for amount in (left, right))
        return coin or len({mark.lower().removesuffix("s").replace("$", "dollar") for mark in MAJOR.findall(text)}) > 1
    if "time" in families and left.values[0] * 60 >= right.values[0] and SHORT_HOURS.search(text):
        return True
    return "baker" in text.lower() and COUNT in families
