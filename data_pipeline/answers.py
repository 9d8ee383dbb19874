"""Whether an answer equals the reference answer.

Two numbers are compared exactly, as fractions, however they are written; anything else as normalised text.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

CURRENCIES = "$€£¥₹"
MAX_EXPONENT = 400  # 10**n for a larger n is refused: it would cost memory and no answer needs it
DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[{CURRENCIES}]?\s*(?P<sign2>[-+]?)"
    rf"(?:(?P<whole>\d+)\s+)?(?P<top>{DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,9}}))?"
    rf"(?:\s*/\s*(?P<bottom>{DECIMAL}))?\s*%?"
)


def same_answer(answer: str, gold: str) -> bool:
    """Whether ``answer`` says the same as ``gold``.

    Numbers may be integers, decimals, fractions (``3/4``), mixed (``1 1/2``) or scientific (``7e4``), with
    thousands separators, a leading currency sign and a trailing ``%`` or full stop; sign and percent are units and
    do not count, so ``$5`` equals ``5`` and ``50%`` equals ``50``. An empty answer equals nothing.
    """
    if not answer.strip():
        return False
    left, right = number(answer), number(gold)
    if left is not None and right is not None:
        return left == right
    return normal_text(answer) == normal_text(gold)


def number(text: str) -> Fraction | None:
    """The number that the whole of ``text`` is, exactly, or None."""
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


def normal_text(text: str) -> str:
    """Text without differences of case, white space, Unicode form and a final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()
