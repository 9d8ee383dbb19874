"""Numbers written as English words: "twelve", "twenty-five", "one hundred and five", "two thirds", "a dozen"."""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
TENS = (
    "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety",
)  # fmt: skip
SMALL = {word: at for at, word in enumerate(UNITS)} | {word: 20 + 10 * at for at, word in enumerate(TENS)}
BIG = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
SCALES = BIG | {"hundred": 100, "dozen": 12}  # what may stand behind digits: "3 million", "2 dozen"
PARTS = {"half": 2, "halves": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "seventh": 7}
PARTS |= {"eighth": 8, "ninth": 9, "tenth": 10, "hundredth": 100}
PARTS |= {f"{word}s": of for word, of in PARTS.items() if word not in ("half", "halves")}
FIRST = frozenset({*SMALL, *PARTS, "a", "an", "minus", "negative", "hundred", "thousand", "dozen"})
POINT = re.compile(rf"\s+point((?:\s+(?:{'|'.join(UNITS[:10])})\b)+)", re.I)
WORD = re.compile(r"[a-z]+")


def number_of_words(text: str) -> tuple[Fraction, str] | None:
    """The number that a text begins with in words, and what stands behind it; None if it begins with none.

    "A" and "an" count as one only before a scale or a part: "a dozen", "a third", and no "a dog".
    """
    words = [(match[0].lower(), match.end()) for match in WORD.finditer(text.lower())][:16]
    if not words or words[0][0] not in FIRST or text[: words[0][1] - len(words[0][0])].strip():
        return None
    sign, at = (-1, 1) if words[0][0] in ("minus", "negative") else (1, 0)
    start = at
    total = current = 0
    unit = 0  # what the last word leaves room for: "twenty five", and no "five twenty"
    seen = whole = False
    end = 0
    for here in range(at, len(words)):
        word, stop = words[here]
        between = text[words[here - 1][1] : stop - len(word)] if here > start else ""
        if here > start and not re.fullmatch(r"\s*-?\s*", between):
            break
        if word in ("a", "an"):
            if here != start or here + 1 == len(words) or words[here + 1][0] not in SCALES.keys() | PARTS.keys():
                break
            current, seen = 1, True
            continue
        if word == "and":
            following = words[here + 1][0] if here + 1 < len(words) else ""
            if not seen or following not in SMALL or (current % 100 and unit < 100) or (unit < 100 and not total):
                return mixed(text, words, here, sign * (total + current)) if seen else None
            continue
        if word in SMALL:
            if seen and unit and SMALL[word] >= unit:
                break
            if seen and not unit:
                break
            current += SMALL[word]
            unit = 10 if SMALL[word] >= 20 else 0
        elif word in ("hundred", "dozen") and (seen or here == start):
            current = (current if seen else 1) * SCALES[word]
            unit = 100 if word == "hundred" else 0
        elif word in BIG and (seen or here == start):
            total, current, unit = total + (current if seen else 1) * BIG[word], 0, 1000
        elif word in PARTS and here > start and whole_number(total + current):
            return Fraction(sign * (total + current), PARTS[word]), text[stop:]
        elif word in PARTS and here == start and word in ("half", "third", "quarter"):
            return Fraction(sign, PARTS[word]), text[stop:]
        else:
            break
        seen, end, whole = True, stop, True
    if whole and (point := POINT.match(text[end:])):
        digits = "".join(str(SMALL[word]) for word in WORD.findall(point[1].lower()))
        return sign * (total + current + Fraction(int(digits), 10 ** len(digits))), text[end + point.end() :]
    return (Fraction(sign * (total + current)), text[end:]) if whole else None


def whole_number(value: int) -> bool:
    return 0 < value < 1000


def mixed(text: str, words: list[tuple[str, int]], here: int, value: int) -> tuple[Fraction, str] | None:
    """ "two and a half", "three and three quarters"; else the number before the "and" with all that follows."""
    rest = number_of_words(text[words[here][1] :])
    if rest is not None and 0 < rest[0] < 1 and value >= 0:
        return value + rest[0], rest[1]
    return Fraction(value), text[words[here - 1][1] :]
