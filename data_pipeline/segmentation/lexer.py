"""A trace as tokens that segmentation by value flow looks at: numbers, signs, words, in any script."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

from tracestill.data_pipeline.segmentation.words import ANYWHERE, FACTORS, JOINTS, NUMBERS, OPERATORS

# Types of tokens: the number of the group below that matched.
MARK, LATEX, TIME, NUMBER, WORD, SIGN, CURRENCY, OPEN, CLOSE, PERCENT, STOP, OTHER = range(1, 13)
IDEOGRAPHS = "぀-ヿ㐀-鿿"
DIGITS_ZH = "零〇一二两三四五六七八九十百千万"
LARGEST = 10**30  # of a value; a teacher that repeats itself may write any
INDIC = "ऀ-ॣॱ-ൿ"  # letters with the vowel signs that are parts of words, without the danda
TOKEN = re.compile(
    r"(<<[^<>\n]{0,400}>>)"  # GSM8K's calculator
    r"|(\\[a-zA-Z]+|\\[()\[\]]|\$\$)"
    r"|(\d{1,2}:\d\d(?!\d))"
    rf"|(\d+(?:[.,]\d+)*(?!\d|st\b|nd\b|rd\b|th\b)|(?<![\w.])\.\d+|[{DIGITS_ZH}]+)"
    rf"|(\d+(?:st|nd|rd|th)|[{INDIC}]+|[{IDEOGRAPHS}](?:(?![{DIGITS_ZH}])[{IDEOGRAPHS}])*"
    r"|(?:[^\W\d_])(?:[^\W\d_]|['’-](?=[^\W\d_]))*)"
    r"|([=+*/×÷·⋅∙^√≈≤≥<>−–＋－＝／-])"
    r"|([$€£¥￥₹])"
    r"|([(\[{（])"
    r"|([)\]}）])"
    r"|([%％°])"
    r"|([,;:，；：、—])"
    r"|(\S)"
)


# Bits of the code of a word: what segmentation looks for in it. That of any other token is its type and OTHERS.
FACTOR, IDEOGRAPH, OPERATES, JOINT, ANYWHERE_SAID, LETTER, OTHERS = 1, 2, 4, 8, 16, 32, 128
LATEX_SIGN = OTHERS + 64 + LATEX
LATEX_SIGNS = {
    *("\\times", "\\cdot", "\\div", "\\frac", "\\dfrac", "\\tfrac", "\\sqrt", "\\pm", "\\le", "\\leq", "\\ge", "\\geq"),
    *("\\approx", "\\equiv", "\\sum", "\\binom"),
}
FIRST_IDEOGRAPH = "぀"


class Lexed(NamedTuple):
    """n tokens: their types, texts (words in lower case), characters [start, end), and a code each."""

    types: list[int]
    texts: list[str]
    starts: list[int]
    ends: list[int]
    codes: bytes


class Codes(dict[str, int]):
    """The code of a word."""

    def __missing__(self, word: str) -> int:
        code = (word in FACTORS) * FACTOR + (word[0] >= FIRST_IDEOGRAPH) * IDEOGRAPH + (word in JOINTS) * JOINT
        code += (word in OPERATORS or word in ("x", "of")) * OPERATES + (word in ANYWHERE) * ANYWHERE_SAID
        code += (len(word) == 1 and word.isascii()) * LETTER
        if len(self) < MOST_CODES:
            self[word] = code
        return code


CODES = Codes()
MOST_CODES = 1 << 18


def finder(matches: Callable[[int], bool]) -> re.Pattern[bytes]:
    """Finds codes for which something holds."""
    return re.compile(b"[" + b"".join(re.escape(bytes([code])) for code in range(256) if matches(code)) + b"]")


def is_word(code: int, bits: int) -> bool:
    """Whether it is that of a word with one of some bits."""
    return code < OTHERS and bool(code & bits)


def is_type(code: int, *types: int) -> bool:
    return code in [OTHERS + kind for kind in types] or (LATEX in types and code == LATEX_SIGN)


def lex(text: str) -> Lexed:
    types: list[int] = []
    texts: list[str] = []
    starts: list[int] = []
    ends: list[int] = []
    codes = bytearray()
    for match in TOKEN.finditer(text):
        kind = match.lastindex or OTHER
        token = match[0]
        if kind == WORD:
            token = token.lower()
            if token in NUMBERS or ("-" in token and number_word(token) is not None):
                kind = NUMBER
        codes.append(CODES[token] if kind == WORD else LATEX_SIGN if token in LATEX_SIGNS else OTHERS + kind)
        types.append(kind)
        texts.append(token)
        starts.append(match.start())
        ends.append(match.end())
    return Lexed(types, texts, starts, ends, bytes(codes))


@lru_cache(maxsize=1 << 14)
def value_of(token: str) -> float:
    """The value of a token of type NUMBER, in digits of any script or in words."""
    if token[0] in DIGITS_ZH:
        return ideographic(token)
    if token[0].isalpha():
        return number_word(token) or 0.0
    try:
        return float(token.replace(",", ""))  # Python reads the digits of all scripts
    except ValueError:  # 1.000.000
        return float(token.replace(".", "").replace(",", ""))


def number_word(word: str) -> float | None:
    """``three``, ``twenty-five``, ``vingt-deux``."""
    if word in NUMBERS:
        return NUMBERS[word]
    parts = [NUMBERS.get(part) for part in word.split("-")]
    if len(parts) == 2 and parts[0] is not None and parts[1] is not None and parts[0] > parts[1] > 0:
        return parts[0] + parts[1]
    return None


def ideographic(text: str) -> float:
    """``三百二十`` is 320."""
    total, held = 0, 0
    for sign in text:
        unit = {"十": 10, "百": 100, "千": 1000, "万": 10000}.get(sign)
        if unit is None:
            held = {"零": 0, "〇": 0, "两": 2}.get(sign) or "零一二三四五六七八九".find(sign)
        elif unit == 10000:
            total, held = min((total + held) * unit, LARGEST), 0
        else:
            total, held = total + (held or 1) * unit, 0
    return float(total + held)
