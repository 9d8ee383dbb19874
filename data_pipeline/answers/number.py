"""A number read from text, exactly: as a fraction, however it is written."""

from __future__ import annotations

import re
from fractions import Fraction

CURRENCIES = "$€£¥₹"
MAX_EXPONENT = 400  # 10**n for a larger n is refused: it would cost memory and no answer needs it
DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[{CURRENCIES}]?\s*(?P<sign2>[-+]?)"
    rf"(?:(?P<whole>\d+)\s+)?(?P<top>{DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,9}}))?"
    rf"(?:\s*/\s*(?P<bottom>{DECIMAL}))?\s*%?"
)
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
MIXED = re.compile(r"(?<![\d.])(\d+)\s*\\[dt]?frac\{(\d+)\}\{(\d+)\}")


def number(text: str) -> Fraction | None:
    """The number that the whole of ``text`` is, exactly, or None."""
    if "frac" in text:
        text = FRACTION.sub(r"\1/\2", MIXED.sub(r"\1 \2/\3", text))
    plain = text.replace("\u2212", "-").replace("\\", "").replace("{,}", ",").strip()
    match = NUMBER.fullmatch(plain.removesuffix(".") if not plain.endswith("..") else plain)
    if match is None or (match["sign"] and match["sign2"]):
        return None
    if match["whole"] and not match["bottom"]:  # "3 4" is no mixed number
        return None
    exponent = int(match["exponent"] or 0)
    if abs(exponent) > MAX_EXPONENT or len(plain) > 1000:
        return None
    value = decimal(match["top"]) * Fraction(10) ** exponent
    if match["bottom"]:
        bottom = decimal(match["bottom"])
        if bottom == 0:
            return None
        value = value / bottom + int(match["whole"] or 0)
    return -value if "-" in (match["sign"], match["sign2"]) else value


def decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").removesuffix("."))
