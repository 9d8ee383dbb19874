"""The answer in what a model wrote."""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from tracestill.data_pipeline.answers.numbers.number import CURRENCIES, FRACTION, MIXED, number

INSIDE = re.compile(  # a number among words: no part of a word, and a full stop behind it is not its own
    rf"(?:(?<![\w)\].])[-+])?(?<![\w.,/^])(?:[{CURRENCIES}]\s?-?)?(?:\d{{1,3}}(?:,\d{{3}})+|\d+)(?:\.\d+)?"
    r"(?:\s?/\s?\d+(?:\.\d+)?)?%?(?!\d)"
)
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
