"""A number read from text, exactly: as a fraction, however it is written."""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction
from functools import cache
from typing import NamedTuple

CURRENCIES = "$€£¥₹"
MAX_EXPONENT = 400  # 10**n for a larger n is refused: it would cost memory and no answer needs it
MAX_LENGTH = 1000
SPACES = " \u00a0\u2009\u202f"
DECIMAL = rf"\d[\d.,'\u2019_{SPACES}]*\d|\d+[.]?|[.]\d+"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[{CURRENCIES}]?\s*(?P<sign2>[-+]?)"
    rf"(?:(?P<whole>\d+)(?:\s+|\s+and\s+|-)(?=\d+\s*/))?(?P<top>{DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,9}})"
    r"|(?:(?P<ten>\s*[*x]\s*10)|)(?:\^|\*\*)[({]?(?P<power>[-+]?\d{1,9})[)}]?)?"
    rf"(?:\s*/\s*(?P<bottom>{DECIMAL}))?(?P<behind>\s*%|)"
)
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
MIXED = re.compile(r"(?<![\d.])(\d+)\s*\\[dt]?frac\{(\d+)\}\{(\d+)\}")
SHORT_FRACTION = re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)(?!\d)")
UPPER = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]")  # they say nothing
VULGAR = re.compile("(\\d?)([¼½¾⅐-⅞])")
REPEATING = re.compile(r"(-?)(\d*)\.(\d*)(?:\\overline\{(\d{1,50})\}|\((\d{1,50})\))")
FORMS = re.compile(  # of digits with separators
    r"(?P<plain>\d+\.?|\d*\.\d+)"
    r"|(?P<comma>[1-9]\d{0,2}(?:,\d{3})+(?:\.\d*)?|[1-9]\d?(?:,\d{2})+,\d{3}(?:\.\d*)?)"
    r"|(?P<point>[1-9]\d{0,2}(?:\.\d{3}){2,}(?:,\d+)?|[1-9]\d{0,2}\.\d{3},\d+)"
    r"|(?P<decimal>(?:0|[1-9]\d{0,2}),\d{1,2}|(?:0|[1-9]\d*),\d{4,}|0,\d{3}|[1-9]\d{3,},\d{1,3})"
    rf"|(?P<space>[1-9]\d{{0,2}}(?:(?P<gap>[{SPACES}'\u2019_])\d{{3}})(?:(?P=gap)\d{{3}})*(?:[.,]\d+)?)"
)
OTHERWISE = re.compile(r"[1-9]\d{0,2}[.,]\d{3}")  # a thousand in one convention, decimals in the other


class Decimal(NamedTuple):
    """What digits say, and what they would say in the other convention, if they could."""

    value: Fraction
    other: Fraction | None
    comma: bool = False  # one comma before decimals: it may part two numbers of a list, too


def number(text: str) -> Fraction | None:
    """The number that the whole of ``text`` is, exactly, or None. A sign of percent or money does not count."""
    found = read(text)
    return None if found is None else found.value


class Plain(NamedTuple):
    value: Fraction
    other: Fraction | None  # by the other convention of separators
    percent: bool
    currency: str
    comma: bool  # "1,5": decimals, or a list


def read(text: str) -> Plain | None:
    """As ``number``, with what else was seen."""
    if len(text) > MAX_LENGTH:
        return None
    plain = plainly(text).strip()
    if not plain.endswith(".."):
        plain = plain.removesuffix(".").rstrip()
    if "\\overline" in plain or "(" in plain:
        found = repeating(plain)
        if found is not None:
            return Plain(found, None, False, "", False)
    match = NUMBER.fullmatch(plain.replace("\\", "").replace("{,}", "_"))
    if match is None or (match["sign"] and match["sign2"]):
        return None
    if match["whole"] and not match["bottom"]:  # "3 4" is no mixed number
        return None
    top = decimal(match["top"])
    if top is None:
        return None
    value, other, comma = top
    if match["power"] is not None:
        raised = power(Fraction(10) if match["ten"] else value, int(match["power"]))
        if raised is None:
            return None
        value, other = (value * raised if match["ten"] else raised), None
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT:
        return None
    if exponent:
        value, other = value * Fraction(10) ** exponent, None
    if match["bottom"]:
        bottom = decimal(match["bottom"])
        if bottom is None or bottom.value == 0:
            return None
        value, other = value / bottom.value + int(match["whole"] or 0), None
    if "-" in (match["sign"], match["sign2"]):
        value, other = -value, None if other is None else -other
    currency = next((sign for sign in plain[:6] if sign in CURRENCIES), "")
    return Plain(value, other, bool(match["behind"]), currency, comma)


def plainly(text: str) -> str:
    """Text with the digits, signs, fractions and exponents of all scripts, and those of LaTeX, as plain characters."""
    if not text.isascii():
        text = INVISIBLE.sub("", text)
        text = VULGAR.sub(_vulgar, text)
        text = UPPER.sub(lambda match: f"^({unicodedata.normalize('NFKC', match[0])})", text)
        text = text.translate(_table())
    if "frac" in text:
        text = SHORT_FRACTION.sub(r"\\frac{\1}{\2}", text)
        text = FRACTION.sub(r"\1/\2", MIXED.sub(r"\1 \2/\3", text))
    if "\\" in text:
        text = text.replace("\\times", "*").replace("\\cdot", "*").replace("\\!", "").replace("\\,", "\u2009")
    return text


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = unicodedata.normalize("NFKC", match[2]).partition("\u2044")
    return f"{match[1]} {top}/{bottom}" if match[1] else f"{top}/{bottom}"


@cache
def _table() -> dict[int, str]:
    """Characters that say the same as plain ones. Superscripts are none of them: they are exponents."""
    found = {ord(sign): "-" for sign in "\u2212\u2010\u2011\u2012\u2013\u2014\u2796\uff0d\ufe63\ufe58"}
    found |= {
        ord("\uff0b"): "+",
        ord("\u00d7"): "*",
        ord("\u00f7"): "/",
        ord("\u22c5"): "*",
        ord("\u00b7"): "*",
        ord("\u2044"): "/",
    }
    found |= {ord("\u2215"): "/", ord("\uff05"): "%", ord("\uff0e"): ".", ord("\uff0c"): ",", ord("\uff0f"): "/"}
    found |= {ord("\u066b"): ".", ord("\u066c"): ",", ord("\uff04"): "$", ord("\u066a"): "%"}
    for block in (0x660, 0x6F0, 0x7C0, 0x966, 0x9E6, 0xA66, 0xAE6, 0xB66, 0xBE6, 0xC66, 0xCE6, 0xD66, 0xE50, 0xED0,
                  0xF20, 0x1040, 0x17E0, 0x1810, 0xFF10):  # fmt: skip
        found |= {block + digit: str(digit) for digit in range(10)}
    return found


def decimal(text: str) -> Decimal | None:
    """What digits and separators say; None if they are set in no known way, such as "1,00,0"."""
    form = FORMS.fullmatch(text)
    if form is None:
        return None
    if form["plain"]:
        value = Fraction(text.removesuffix("."))
        other = Fraction(text.replace(".", "")) if "." in text and OTHERWISE.fullmatch(text) else None
    elif form["comma"]:
        value = Fraction(text.replace(",", "").removesuffix("."))
        other = Fraction(text.replace(",", ".")) if OTHERWISE.fullmatch(text) else None
    elif form["point"]:
        value, other = Fraction(text.replace(".", "").replace(",", ".")), None
    elif form["decimal"]:
        value, other = Fraction(text.replace(",", ".")), None
    else:
        value, other = Fraction(text.replace(form["gap"], "").replace(",", ".")), None
    return Decimal(value, other, form["decimal"] is not None)


def power(base: Fraction, exponent: int) -> Fraction | None:
    """None for 0 to a negative power, and where the digits would be too many."""
    if base == 0:
        return Fraction(0**exponent) if exponent >= 0 else None
    bits = max(abs(base.numerator), base.denominator).bit_length() - 1
    if base not in (1, -1) and bits * abs(exponent) > 4 * MAX_EXPONENT:
        return None
    return base**exponent


def repeating(text: str) -> Fraction | None:
    """``0.1\\overline{6}``, ``0.1(6)``."""
    match = REPEATING.fullmatch(text)
    if match is None:
        return None
    sign, whole, fixed, again = match[1], match[2] or "0", match[3], match[4] or match[5]
    shift = 10 ** len(fixed)
    value = Fraction(int(whole + fixed)) + Fraction(int(again), 10 ** len(again) - 1)
    return (-value if sign else value) / shift
