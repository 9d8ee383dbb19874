"""The verifier ``number``: quantities compared exactly, with their units, percent signs and separators."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

from tracestill.data_pipeline.answers.find import numbers_in
from tracestill.data_pipeline.answers.numbers.quantity import Quantity, quantity, settled, shown, unframed
from tracestill.data_pipeline.answers.numbers.tongues import may_be, number_word
from tracestill.data_pipeline.answers.numbers.units import Unit, asked_unit, unit_of
from tracestill.data_pipeline.answers.times import time_of
from tracestill.data_pipeline.answers.verdict import Verdict

BY = "number"
POUNDS = {unit_of("pound").dimensions, unit_of("£").dimensions}
PERCENT = re.compile(r"%|\bper ?cent|\bpercentage|\bpct\b|\bporcentaje|\bpor ciento|\bprozent|\bpourcent|百分", re.I)
DECIMAL_COMMA = re.compile(r"(?<![\d.,])\d+,\d{1,2}(?![\d,])|(?<![\d.,])\d{1,3}(?:\.\d{3})+,\d")
DECIMAL_POINT = re.compile(r"(?<![\d.,])\d+\.\d{1,2}(?![\d.])|(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
RATIO = re.compile(r"(\d{1,9})\s*:\s*(\d{1,9})")
GOES_ON = re.compile(r"(-?\d*\.(\d{2,}))\s*(?:\.{2,}|…|\\l?dots)")
NONE = re.compile(r"(?:none|nothing|nil|no\s+[a-z]+)\b", re.I)
DIGITS = re.compile(r"\d")


@lru_cache(1024)
def asks_percent(question: str) -> bool:
    """Whether a percentage is asked for: then 50% is 50, and else 0.5."""
    return PERCENT.search(question) is not None


@lru_cache(1024)
def decimal_comma(question: str) -> bool | None:
    """Whether a question writes decimals with a comma; None where it shows neither way, or both."""
    comma, point = DECIMAL_COMMA.search(question) is not None, DECIMAL_POINT.search(question) is not None
    return None if comma == point else comma


def verify_number(answer: str, gold: str, question: str = "") -> Verdict:
    """Right only if both are the same number, exactly, in every way that they can be read.

    A unit of the gold answer, or one that the question asks for, is converted to; other words behind a number do not
    count. ``cannot_tell`` where one side can be read in two ways of which only one is equal, where units say nothing of
    each other, and where the answer is no number but text that holds the right one.
    """
    reference = quantity(gold) or number_word(gold)
    if reference is None:
        return Verdict("cannot_tell", "", "", BY, "the gold answer is no number")
    said = quantity(answer) or number_word(answer)
    wanted = _settled(reference, question)
    held = _shown(reference, wanted, question)
    if said is None:
        told = (time_of(answer) is None and _mentions(answer, wanted)) or _may_say(answer, wanted)
        return Verdict("cannot_tell" if told else "wrong", "", held, BY, "the answer is no number")
    value = _settled(said, question)
    read = _shown(said, value, question)
    if said.name and reference.name and said.name != reference.name:
        return Verdict("cannot_tell", read, held, BY, f"{said.name} and {reference.name} are two names")
    mine, goal = said.unit, reference.unit
    if goal is None and (name := asked_unit(question)) and mine is not None and mine.known:
        wished = unit_of(name)
        goal = wished if wished.dimensions == mine.dimensions else None
    if mine is None or goal is None or mine.dimensions == goal.dimensions:
        if mine is not None and goal is not None:
            value = value * mine.factor / goal.factor
        if value == wanted:
            return Verdict("right", read, held, BY)
        return _unequal(said, reference, value, wanted, question, read, held, goal is None)
    if value != wanted:
        return Verdict("wrong", read, held, BY)
    if mine.known and goal.known:
        if {mine.dimensions, goal.dimensions} == POUNDS:
            return Verdict("right", read, held, BY)
        return Verdict("wrong", read, held, BY, "of another dimension")
    if mine.words & goal.words or (reference.unit is None and not mine.known):
        return Verdict("right", read, held, BY)
    return Verdict("cannot_tell", read, held, BY, "the number of something else, or the same by another name")


def _settled(found: Quantity, question: str) -> Fraction:
    """The number that is meant: by the question's separators, and a percent sign by whether percent is asked for."""
    value = found.value
    comma = decimal_comma(question) if found.other is not None else None
    if comma and found.value.denominator != 1:
        value = found.other or value  # "1.500" where decimals have a comma
    elif comma and found.other is not None:
        value = found.other  # "1,500" likewise
    return value / 100 if found.percent and not asks_percent(question) else value


def _shown(found: Quantity, value: Fraction, question: str) -> str:
    if found.percent and asks_percent(question):
        return f"{shown(value)} (percent)"
    return shown(value)


def _unequal(
    said: Quantity,
    gold: Quantity,
    value: Fraction,
    wanted: Fraction,
    question: str,
    read: str,
    held: str,
    open_unit: bool,
) -> Verdict:
    """The verdict on two numbers that differ as they were read: can one of them be read so that they do not?"""
    if decimal_comma(question) is None and any(
        other is not None and other == against for other, against in ((said.other, wanted), (gold.other, value))
    ):
        return Verdict("cannot_tell", read, held, BY, "equal if point and comma are read the other way")
    measures = said.unit is not None and said.unit.known  # "45°" is no 45 %
    if not question and said.percent != gold.percent and said.value == gold.value and not measures:
        return Verdict("cannot_tell", read, held, BY, "equal if percent is asked for, and there is no question")
    if gold.percent and not said.percent and said.value == gold.value and not measures:
        return Verdict("cannot_tell", read, held, BY, "equal if percent is meant")
    if open_unit and said.unit is not None and said.unit.known and _converts(said.unit, value, wanted):
        return Verdict("cannot_tell", read, held, BY, "equal in another unit")
    return Verdict("wrong", read, held, BY)


def _converts(unit: Unit, value: Fraction, wanted: Fraction) -> bool:
    """Whether a value equals the wanted one in another unit of its dimension."""
    return any(
        other.dimensions == unit.dimensions and value * unit.factor / other.factor == wanted
        for other in map(unit_of, ("m", "cm", "mm", "km", "inch", "foot", "yard", "mile", "g", "kg", "oz", "pound",
                                   "second", "minute", "hour", "day", "week", "month", "year", "l", "ml", "dollar",
                                   "cent"))
    )  # fmt: skip


def _may_say(answer: str, wanted: Fraction) -> bool:
    """Whether a text that is no number may mean the wanted one in a way that is not read here: in numerals of other
    scripts ("十二"), by a word of several meanings ("once"), as a ratio, with digits left out ("0.333…"), as none."""
    plain = settled(unframed(answer[:100]))
    if any(sign.isnumeric() and not sign.isdecimal() for sign in plain) or wanted in may_be(plain):
        return True
    if match := RATIO.fullmatch(plain):
        return int(match[2]) > 0 and Fraction(int(match[1]), int(match[2])) == wanted
    if match := GOES_ON.fullmatch(plain):
        short = abs(wanted) - abs(value := Fraction(match[1]))  # cut off, or rounded
        return value * wanted > 0 and -Fraction(1, 2) <= short * 10 ** len(match[2]) < 1
    return wanted == 0 and NONE.match(plain) is not None


def _mentions(answer: str, wanted: Fraction) -> bool:
    """Whether a text that is no number holds the wanted one."""
    if not DIGITS.search(answer) or len(answer) > 10_000 or len(answer.split()) < 2:
        return False
    found = (quantity(one) for one in numbers_in(answer))
    return any(one is not None and one.value == wanted for one in found)
