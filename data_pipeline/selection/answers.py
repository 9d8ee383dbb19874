"""The answer in what a model wrote, and whether it equals the reference answer.

Two numbers are compared exactly, as fractions, however they are written; anything else as normalised text.
"""

from __future__ import annotations

import re
import unicodedata
from collections import deque
from fractions import Fraction
from typing import NamedTuple

CURRENCIES = "$€£¥₹"
MAX_EXPONENT = 400  # 10**n for a larger n is refused: it would cost memory and no answer needs it
DECIMAL = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+"
NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*[{CURRENCIES}]?\s*(?P<sign2>[-+]?)"
    rf"(?:(?P<whole>\d+)\s+)?(?P<top>{DECIMAL})(?:[eE](?P<exponent>[-+]?\d{{1,9}}))?"
    rf"(?:\s*/\s*(?P<bottom>{DECIMAL}))?\s*%?"
)


INSIDE = re.compile(  # a number among words: no part of a word, and a full stop behind it is not its own
    rf"(?:(?<![\w)\].])[-+])?(?<![\w.,/^])(?:[{CURRENCIES}]\s?-?)?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?"
    r"(?:\s?/\s?\d+(?:\.\d+)?)?%?(?!\d)"
)
FRACTION = re.compile(r"\\[dt]?frac\{(-?\d+)\}\{(\d+)\}")
MIXED = re.compile(r"(?<![\d.])(\d+)\s*\\[dt]?frac\{(\d+)\}\{(\d+)\}")
WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\{([^{}]*)\}")
SETTING = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;: ]|\^\{?\\circ\}?")
ONE = re.compile(r"\{(\w)\}")
LETTER = re.compile(r"\A\(([a-z])\)\Z")
SCIENTIFIC = re.compile(r"(?<=\d)\s*(?:\\times|\\cdot|×)\s*10\^\{?(-?\d+)\}?")
BRACE = re.compile(r"(?<!\\)[{}]")
HASHES = re.compile(  # before "#### 18", and no heading of Markdown ("#### Step 2: Add", "#### 2. Add both")
    r"(?:^[ \t]*####|(?<=[^\S\n])####(?=[ \t]*[-$\\]{0,2}\d))"
    r"(?!#|[ \t*]*(?:(?:step|part|case|phase|section)\b|\d+[.):]\**[ \t]+[^\W\d]))(?=.)",
    re.M | re.I,
)
SENTENCE = re.compile(  # before an answer in a line: "the answer is", "Answer:", so in other languages, "A: 26"
    r"(?:\banswer\b(?:\s+is\b|[\s*]*[:：])|\b(?:respuesta|réponse)(?:\s+(?:es|est)\b|[\s*]*:)"
    r"|\bantwort\b(?:\s+(?:ist|lautet)\b|[\s*]*:)|答案[\s*]*(?:是|为|為|[:：])|उत्तर\s*(?:है|[:：])|^[ \t]*A[:：])"
    r"[\s*:：]*(?=\S)",
    re.M | re.I,
)


class Found(NamedTuple):
    """An answer, and the rule that found it: whole, boxed, hashes, sentence, last_number or none."""

    answer: str | None
    rule: str


def find_answer(text: str, *, numeric: bool) -> Found:
    """The answer in ``text``: what a model wrote behind its reasoning, or all that it wrote.

    ``numeric`` says that a number is asked for. The first rule that applies: the whole text, if it is a number; what
    stands in the last ``\\boxed{}``; behind the last ``####``; behind the last "answer is" or "answer:", to the end of
    its line; the last number, if one is asked for; the whole text. Where a number is asked for, words around it are
    left out. The gold answer plays no part.
    """
    plain = text.strip()
    if not plain:
        return Found(None, "none")
    if number(plain) is not None:
        return Found(text, "whole")
    marked = (("boxed", boxed(plain)), ("hashes", last(HASHES, plain)), ("sentence", last(SENTENCE, plain)))
    for rule, found in marked:
        if found is not None:
            said = first_number(found) if numeric else trimmed(found)
            if said:
                return Found(said, rule)
    if numeric and (numbers := numbers_in(plain)):
        return Found(numbers[-1], "last_number")
    return Found(None, "none") if numeric else Found(text, "whole")


def boxed(text: str) -> str | None:
    """What the last ``\\boxed{}`` holds, braces inside it included; None if there is none that closes."""
    found = boxed_at(text)
    return None if found is None else text[found.start : found.stop]


def boxed_at(text: str) -> slice | None:
    """Where the content of the last ``\\boxed{}`` stands."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 1, start + len("\\boxed{")
    for brace in BRACE.finditer(text, begin):
        depth += 1 if brace[0] == "{" else -1
        if depth == 0:
            return slice(begin, brace.start())
    return None


def last(pattern: re.Pattern[str], text: str) -> str | None:
    """What stands behind the last mark, to the end of its line."""
    found = deque(pattern.finditer(text), maxlen=1)
    return text[slice(*line_behind(text, found[0]))] if found else None


def line_behind(text: str, mark: re.Match[str]) -> tuple[int, int]:
    """Where the rest of a mark's line begins and ends."""
    end = text.find("\n", mark.end())
    return mark.end(), len(text) if end < 0 else end


def first_number(text: str) -> str | None:
    """The number that a short text gives as an answer: the first, or of an equation what stands behind its sign."""
    text = SCIENTIFIC.sub(r"e\1", FRACTION.sub(r"\1/\2", MIXED.sub(r"\1 \2/\3", text)))
    if number(plain := trimmed(text)) is not None:  # "5 1/2", "7e4"
        return plain.replace("\\", "").replace("{,}", ",")
    numbers = numbers_in(text.rpartition("=")[2]) or numbers_in(text)
    return numbers[0] if numbers else None


def numbers_in(text: str) -> list[str]:
    """The numbers among the words of a text, each in a form that ``number`` reads."""
    plain = FRACTION.sub(r"\1/\2", text).replace("\u2212", "-").replace("\\$", "$").replace("{,}", ",")
    return [found for match in INSIDE.finditer(plain) if number(found := match[0].strip()) is not None]


def trimmed(text: str) -> str:
    """Text without the marks of emphasis and mathematics around it, and a final full stop."""
    return text.strip().strip("*$`").removesuffix(".").strip("*$` ")


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
    return normal_text(answer) == normal_text(gold) or plain_text(answer) == plain_text(gold)


def plain_text(text: str) -> str:
    """Normalised text without how LaTeX sets it (``\\text{B}``, ``\\dfrac``) or parentheses around a letter."""
    plain = WORDS.sub(r"\1", text)
    if "\\" in plain or "^" in plain:
        plain = SETTING.sub("", plain).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
        plain = ONE.sub(r"\1", "".join(plain.split()))
    return LETTER.sub(r"\1", normal_text(plain).strip("*$` "))


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


def normal_text(text: str) -> str:
    """Text without differences of case, white space, Unicode form and a final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()
