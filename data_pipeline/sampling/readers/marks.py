"""Readers of answers by the mark before them: each gives the trace, the answer and what follows it, or None."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from tracestill.data_pipeline.answers.find import (
    HASHES,
    INSIDE,
    SENTENCE,
    boxed_at,
    first_number,
    line_behind,
    numbers_in,
    trimmed,
)
from tracestill.data_pipeline.answers.numbers.number import number

SENTENCE_START = re.compile(r"[.!?]['\")*]*\s+|[。！？]\s*|\n")
LEADING = re.compile(  # words that lead from a calculation to the answer that it gives
    r"[\s,;]*(?:\b(?:and|so|thus|then|hence|therefore|which means|that means|means)\b[\s,]*)*"
    r"(?:\b(?:the|our|my|final|correct)\b\s*)*\Z",
    re.I,
)
MARKS = 4  # the last of a text, of which the last one with a number counts: "this answer is right" holds none
WORDS = 4  # an answer of so many words after a number is the number with its unit


class Marked(NamedTuple):
    """What a reader found."""

    trace: str
    answer: str
    after: str = ""  # text behind the answer


AnswerReader = Callable[[str, bool | None], "Marked | None"]


def said(text: str, numeric: bool | None) -> str:
    """The answer in a short text: a number if one is asked for (``numeric``), or, where that is not known (None), if it
    begins with one and few words follow."""
    if numeric:
        return first_number(text) or ""
    plain = trimmed(text)
    if numeric is None and number(plain) is None and len(plain) < 80 and len(plain.split()) <= WORDS:
        found = INSIDE.match(plain)
        if found and number(found[0]) is not None:
            return found[0].strip()
    return plain


def boxed(text: str, numeric: bool | None) -> Marked | None:
    """What the last ``\\\\boxed{}`` holds, whose frame is taken off in the trace."""
    place = boxed_at(text)
    if place is None or not (answer := said(text[place], numeric)):
        return None
    start = text.rfind("\\boxed{", 0, place.start)
    trace = f"{text[:start]}{text[place]}{text[place.stop + 1 :]}".strip()
    return Marked(trace if trace.strip("$\\()[]. *") != text[place].strip() else "", answer, "")


def hashes(text: str, numeric: bool | None) -> Marked | None:
    """What stands behind the last ``####``."""
    return at_mark(HASHES, text, numeric, whole_line=True)


def sentence(text: str, numeric: bool | None) -> Marked | None:
    """What the last "The answer is …", "Answer: …" or line "A: …" says."""
    return at_mark(SENTENCE, text, numeric, whole_line=False)


def at_mark(pattern: re.Pattern[str], text: str, numeric: bool | None, *, whole_line: bool) -> Marked | None:
    for mark in reversed(deque(pattern.finditer(text), maxlen=MARKS if numeric else 1)):
        begin, end = line_behind(text, mark)
        if answer := said(text[begin:end], numeric):
            before = text[: mark.start()] if whole_line else without_last_sentence(text[: mark.start()])
            return Marked(before.strip(), answer, text[end:].strip())
    return None


def without_last_sentence(text: str) -> str:
    """A text without the words of its last sentence, which gives the answer; a calculation in it stays."""
    cut = final(SENTENCE_START.finditer(text, max(0, len(text) - 400)))
    begin = cut.end() if cut else len(text) if len(text) > 400 else 0
    return text[:begin] + (LEADING.sub("", text[begin:]) if "=" in text[begin:] else "")


def final(matches: Iterable[re.Match[str]]) -> re.Match[str] | None:
    """The last of them."""
    held = deque(matches, maxlen=1)
    return held[0] if held else None


def last_number(text: str, numeric: bool | None) -> Marked | None:
    """The last number of a text whose question asks for one."""
    if numeric is False:
        return None
    found = numbers_in(text[-2000:]) or numbers_in(text)
    plain = text.strip()
    return Marked("" if number(plain) is not None else plain, found[-1]) if found else None


def whole(text: str, numeric: bool | None) -> Marked | None:
    """A text that is the answer and nothing else: a number, or one short line where no number is asked for."""
    plain = text.strip()
    if number(plain) is not None:
        return Marked("", plain)
    if numeric is False and plain and len(plain) <= 200 and "\n" not in plain:
        return Marked("", plain)
    return None


READERS: dict[str, AnswerReader] = {
    "boxed": boxed,
    "hashes": hashes,
    "sentence": sentence,
    "last_number": last_number,
    "whole": whole,
}
