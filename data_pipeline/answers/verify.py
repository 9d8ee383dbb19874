"""Whether an answer says the same as the reference answer.

Two numbers are compared exactly, as fractions, however they are written; anything else as normalised text.
"""

from __future__ import annotations

import re
import unicodedata

from tracestill.data_pipeline.answers.number import number

WORDS = re.compile(r"\\(?:text|textbf|mathrm|mathbf|mbox|operatorname)\{([^{}]*)\}")
SETTING = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[!,;: ]|\^\{?\\circ\}?")
ONE = re.compile(r"\{(\w)\}")
LETTER = re.compile(r"\A\(([a-z])\)\Z")


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


def normal_text(text: str) -> str:
    """Text without differences of case, white space, Unicode form and a final full stop."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").rstrip()
