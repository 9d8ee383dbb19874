"""A number with what usually stands around it: its frame, "x =", a sign of money, a unit, or in words."""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from tracestill.data_pipeline.answers.numbers.number import (
    CURRENCIES,
    DECIMAL,
    INVISIBLE,
    MAX_LENGTH,
    plainly,
    read,
    repeating,
)
from tracestill.data_pipeline.answers.numbers.units import SYMBOLS, Unit, unit_of
from tracestill.data_pipeline.answers.numbers.words import FIRST, SCALES, number_of_words

BRACKETS = {"(": ")", "{": "}", "[": "]"}
MOST_WORDS = 6  # of a unit
FRAMES = (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$"), ("**", "**"), ("`", "`"), ("*", "*"))
WHOLE = re.compile(
    r"\\(?:boxed|fbox|text|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*(?:\{[^{}]*(?:\{[^{}]*\})*[^{}]*\}[^{}]*)*)\}"
)
INNER = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\s*\{([^{}]*)\}")
LEAD = re.compile(
    r"\A(?:(?:so|thus|hence|therefore|and)\b[\s,]*){0,3}(?:(?:the|my|our)\s+)?(?:final\s+|correct\s+)?answer\s*(?:is\b|:|=)\s*:?\s*",
    re.I,
)
MINUS = re.compile(r"(?:minus|negative)\s+(?=[\d.½¼¾\\])", re.I)
ABOUT = re.compile(r"(?:≈|~|\\approx|\\sim|(?:approximately|about|approx\.|roughly|around|ca\.)\s)\s*", re.I)
NAME = re.compile(r"\\?[A-Za-z](?:[\w ']|\([a-z]\)){0,30}?\s*=\s*")
SUM = re.compile(r"[\d\s.,+*/()$€£x×÷-]+=\s*(?=[-+$€£\d.\s]+)")
BACK = re.compile(r"\s*=\s*([A-Za-z])\Z")
HEAD = re.compile(
    rf"[-+]?\s*[{CURRENCIES}]?\s*[-+]?(?:\d+(?:\s+|\s+and\s+|-)(?=\d+\s*/))?(?:{DECIMAL})"
    rf"(?:[eE][-+]?\d+(?![a-z])|(?:\s*[*x]\s*10)?(?:\^|\*\*)[({{]?[-+]?\d+[)}}]?)?(?:\s*/\s*(?:{DECIMAL}))?\s*%?"
)
VARIABLES = frozenset("abijknpqrwxyz")  # alone they are no unit
TAIL = re.compile(r"[^\W\d_]+")
NO_UNIT = frozenset({
    "or", "and", "to", "more", "less", "fewer", "not", "plus", "minus", "times", "than", "but", "if", "is", "are",
    "was", "were", "out", "through", "percent", "either", "versus", "vs", "between", "over", "under", "until",
    "remainder", "r", "clock", "uhr", "pi", "sin", "cos", "tan", "cot", "sec", "csc", "log",
    "ln", "exp", "sqrt", "mod", "choose",
})  # fmt: skip
NO_WORD = re.compile(r"[^\w\s/^*.()°$€£¥₹¢'’,%-]|_")
THOUSANDS = re.compile(r"\s?([kKmMbB])n?\b")  # of money
HALF_DAY = re.compile(r"\b[ap]\.?\s?m\b", re.I)
ORDINAL = re.compile(r"(?:st|nd|rd|th)\b")
COMPOUND = re.compile(r"\s*(?:,\s*)?(?:and\s+)?(?=[-+$€£]?\d)")


class Quantity(NamedTuple):
    """A number as it was written; ``percent`` has not been divided by 100."""

    value: Fraction
    unit: Unit | None = None
    percent: bool = False
    other: Fraction | None = None  # in the other convention of separators
    comma: bool = False  # as number.Decimal
    name: str = ""  # "x" of "x = 3"


def unframed(text: str) -> str:
    """Text without emphasis, the delimiters of mathematics, ``\\boxed{}`` and a final full stop around it."""
    before = None
    if not text.isascii():
        text = INVISIBLE.sub("", text)
    while text != before:
        before = text
        text = text.strip()
        if text.endswith("\\\\"):  # a line's end
            text = text.rstrip("\\").rstrip()
        if not text or (text[0] not in "\\$*`" and text[-1] != "."):
            return text
        if text.endswith(".") and not text.endswith(".."):
            text = text[:-1].rstrip()
        for start, end in FRAMES:
            inside = text[len(start) : -len(end)]
            long = len(text) > len(start) + len(end) and text.startswith(start) and text.endswith(end)
            if long and (start[0] not in inside or start[0] == "\\"):
                text = inside
        if text.startswith("\\") and (match := WHOLE.fullmatch(text)):
            text = match[1]
    return text


@lru_cache(8192)
def quantity(text: str) -> Quantity | None:
    """The quantity that the whole of a text is, or None."""
    if len(text) > MAX_LENGTH or text.rstrip().endswith(".."):
        return None
    plain = unframed(text)
    if plain.startswith("##"):
        plain = plain.lstrip("# ")
    if len(plain) > 2 and plain[0] in "\"'" and plain[-1] == plain[0]:
        plain = plain[1:-1].strip()
    if "nswer" in text:
        plain = unframed(LEAD.sub("", plain, count=1))
    name = ""
    if "=" in plain:
        if match := BACK.search(plain):
            name, plain = match[1], plain[: match.start()]
        elif match := NAME.match(plain) or SUM.match(plain):
            name, plain = match[0].rstrip("= ").strip("\\"), plain[match.end() :]
        if "=" in plain:
            return None
        name = name if len(name) == 1 else ""
    if plain[:1] in BRACKETS and plain[-1:] == BRACKETS[plain[:1]] and plain[1:-1].isascii():
        plain = plain[1:-1].strip() if plain[1:-1].strip().replace(".", "").isdigit() else plain
    plain = unframed(ABOUT.sub("", plain, count=1)) if plain[:1] in "≈~\\arcAR" else plain
    found = compound(settled(plain))
    return None if found is None else found._replace(name=name)


def settled(text: str) -> str:
    """Text with how LaTeX sets a number and its unit taken off."""
    if "\\" in text:
        text = INNER.sub(r"\1", text)
        for mark in ("^\\circ", "^{\\circ}", "\\degree"):
            text = text.replace(mark, "°")
        text = text.replace("\\%", "%").replace("\\$", "$").replace("\\ ", " ").replace("\\;", " ").replace("~", " ")
    text = MINUS.sub("-", text, count=1) if text[:1] in "mMnN" else text
    return plainly(text.replace("US$", "$")).replace("{,}", "_").strip()


def compound(text: str) -> Quantity | None:
    """One quantity, or a sum of some that are of one dimension: "2 hours 30 minutes"."""
    found = single(text)
    if found is None:
        return None
    first, rest = found
    if not rest:
        return first
    total = first
    while rest:
        match = COMPOUND.match(rest)
        following = single(rest[match.end() :]) if match else None
        if following is None or total.unit is None or total.percent:
            return None
        more, rest = following
        large, small = total.unit, more.unit
        if small is None or not (large.known and small.known and large.dimensions == small.dimensions):
            return None
        if small.factor >= large.factor or more.value < 0:
            return None
        added = more.value * small.factor / large.factor
        total = total._replace(value=total.value + (added if total.value >= 0 else -added))
    return total


def single(text: str) -> tuple[Quantity, str] | None:
    """A quantity that a text begins with, and what follows it."""
    if ("(" in text or "overline" in text) and (again := repeating(text)) is not None:
        return Quantity(again), ""
    match = HEAD.match(text)
    if match is None:
        words = number_of_words(text) if text[:1].isalpha() else None
        if words is None:
            return None
        value, behind = words
        held = with_unit(Quantity(value), behind)
        return None if held is None else held
    digits = match[0].rstrip(", ")
    found = read(text) if match.end() == len(text) else read(digits)
    if found is None:
        return None
    unit = unit_of(found.currency) if found.currency else None
    held_one = Quantity(found.value, unit, found.percent, found.other, found.comma)
    return with_unit(held_one, text[len(digits) :] if match.end() < len(text) else "")


def with_unit(held: Quantity, behind: str) -> tuple[Quantity, str] | None:
    """A number with the scale, percent and unit that its text goes on with; None if what follows is none."""
    behind = ORDINAL.sub("", behind, count=1) if ORDINAL.match(behind) else behind
    if held.unit is not None and (word := THOUSANDS.match(behind)):
        size = 10**3 if word[1] in "kK" else 10**6 if word[1] in "mM" else 10**9
        held, behind = held._replace(value=held.value * size, other=None), behind[word.end() :]
    while (word := TAIL.match(behind.lstrip(" -"))) and word[0].lower().removesuffix("s") in SCALES:
        held = held._replace(value=held.value * SCALES[word[0].lower().removesuffix("s")], other=None)
        behind = behind.lstrip(" -")[word.end() :]
    if word := re.match(r"\s*(?:%|percent\b|per cent\b|pct\b|percentage points\b)", behind):
        held, behind = held._replace(percent=True), behind[word.end() :]
    end = next(
        (at for at, letter in enumerate(behind) if letter.isdigit() and not after_letter(behind, at)), len(behind)
    )
    unit, rest = behind[:end], behind[end:]
    joint = re.search(r"(?:,|\band|,\s*and)?\s*[$€£]?\Z", unit) if rest else None
    if joint:
        unit, rest = unit[: joint.start()], unit[joint.start() :] + rest
    if behind.lstrip()[:1] == "‰":
        held, unit = held._replace(value=held.value / 1000, other=None), unit.replace("‰", "", 1)
    unit = unit.strip(" .,;()")
    if not unit:
        return held, rest
    words = [one.lower() for one in TAIL.findall(unit)]
    if (
        len(words) > MOST_WORDS
        or set(words) & NO_UNIT
        or HALF_DAY.search(unit)
        or re.search(r"[^\w\s/^*.()°$€£¥₹¢'’,%-]|_", unit)
    ):
        return None
    if any(one in FIRST and one not in ("a", "an") for one in words):
        return None
    if unit.lstrip("/ ") in VARIABLES:
        return None  # "1/x", "3 n"
    if behind[:1].isalpha() and len(words[0]) == 1 and not unit_of(words[0]).known and len(unit) == 1:
        return None  # "3x", "2B" are no quantities
    if not words and not (unit_of(unit).known and unit_of(unit).dimensions):
        return None
    if held.unit is not None:  # "$5 per hour", "$18 dollars": money says what it is
        return held, rest
    return held._replace(unit=unit_of(unit)), rest


def after_letter(text: str, at: int) -> bool:
    """Whether a digit is an exponent of a unit: "cm2", "m^2"."""
    return at > 0 and (
        (text[at - 1] in "^-(" and "^" in text[max(0, at - 3) : at])
        or (text[at - 1].isalpha() and text[max(0, at - SYMBOLS) : at].strip() in ("m", "cm", "km", "mm", "ft", "in"))
    )


def shown(value: Fraction) -> str:
    """A number as short as it can be written exactly: an integer, decimals, or a fraction."""
    if value.denominator == 1:
        return str(value.numerator)
    bottom, twos, fives = value.denominator, 0, 0
    while bottom % 2 == 0:
        bottom, twos = bottom // 2, twos + 1
    while bottom % 5 == 0:
        bottom, fives = bottom // 5, fives + 1
    places = max(twos, fives)
    if bottom != 1 or places > 15:
        return f"{value.numerator}/{value.denominator}"
    digits = f"{abs(value.numerator) * 10**places // value.denominator:0{places + 1}d}"
    return f"{'-' if value < 0 else ''}{digits[:-places]}.{digits[-places:]}"
