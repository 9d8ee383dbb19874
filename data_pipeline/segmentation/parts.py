"""What every way of segmenting makes, parts of one kind each; and the steps (sentences, lines) of a trace."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Span, Spans
from tracestill.data_pipeline.segmentation.words import ABBREVIATIONS, BEFORE_NUMBER

# Sentences of scripts that put a space behind their stop end at the space; others at the stop: CJK's full stops, the
# danda of Devanagari and its neighbours, the stops of Arabic, Urdu, Ethiopic, Khmer, Burmese, Tibetan and Armenian.
STEP_END = re.compile(r"\n\s*|[.!?…][\"'”’»)\]*]*\s+|[。｡！？．।॥؟۔።፧។။།։](?!\d)[\"'”’」』）)\]*]*\s*")
ABBREVIATION = re.compile(
    r"(?:(?<!\w)(?:" + "|".join(map(re.escape, ABBREVIATIONS)) + r")|(?:^|\n)\s*\d{1,3})\.$", re.I
)
NUMBERED = [rf"{re.escape(word)}\.\s+\d" for word in BEFORE_NUMBER]  # No. 5
HALVES = [r"\.\s".join(map(re.escape, word.split(". "))) for word in ABBREVIATIONS if ". " in word]  # z. B.
GOES_ON = re.compile(r"(?<!\w)(?:" + "|".join(NUMBERED + HALVES) + ")", re.I)
SHORTENED = [part for word in ABBREVIATIONS for part in word.split(". ")] + BEFORE_NUMBER
# the end of what may be an abbreviation: only then is looked closely
ENDINGS = sorted({("" if word[:-2] else r"(?<!\w)") + re.escape(word[-2:]) for word in SHORTENED})
BEFORE_STOP = re.compile("(?:" + "|".join(ENDINGS) + ")(?=[.])", re.I)
LOOK_BACK = 11  # characters before a stop that may be an abbreviation
STEPS_HELD = 1024  # traces whose steps are remembered
LOOK_AHEAD = 2  # and behind it, that tell


class Part(NamedTuple):
    """Characters up to ``end`` of a trace that one rule decided on."""

    kind: str
    end: int
    why: str  # the words that the rule found, or what it saw; empty where no rule held


def spans_of(parts: Iterable[Part]) -> tuple[Span, ...]:
    """Parts as spans: sorted, without overlap; neighbours of one kind are one span."""
    spans: list[Span] = []
    start = 0
    for kind, end, _ in parts:
        if spans and spans[-1].kind == kind:
            spans[-1] = Span(spans[-1].start, end, kind)
        else:
            spans.append(Span(start, end, kind))
        start = end
    return tuple(spans)


def compact(parts: Iterable[Part]) -> Spans:
    """As ``spans_of``."""
    ends: list[int] = []
    kinds: list[str] = []
    for kind, end, _ in parts:
        if kinds and kinds[-1] == kind:
            ends[-1] = end
        else:
            ends.append(end)
            kinds.append(kind)
    return Spans(ends, kinds)


@lru_cache(maxsize=STEPS_HELD)  # segmentation asks, and then who lays out documents
def step_ends(trace: str) -> tuple[int, ...]:
    """Where each step ends: increasing offsets, the last is ``len(trace)``; empty for an empty trace.

    A step ends at a line break or behind the stop of a sentence, in any script, unless the stop belongs to an
    abbreviation or to the number of a list item. White space after a step belongs to it.
    """
    ends = []
    for match in STEP_END.finditer(trace):
        at = match.start()
        if trace[at] == "." and (trace[at - 1 : at].isdigit() or BEFORE_STOP.search(trace, max(0, at - 2), at + 1)):
            back = max(0, at - LOOK_BACK)
            goes_on = GOES_ON.search(trace, back, match.end() + LOOK_AHEAD)
            if ABBREVIATION.search(trace, back, at + 1) or (goes_on is not None and goes_on.end() > at):
                continue
        ends.append(match.end())
    if trace and (not ends or ends[-1] < len(trace)):
        ends.append(len(trace))
    if ends and not trace[: ends[0]].strip():  # white space before the first step belongs to it
        ends = ends[1:] or [len(trace)]
    return tuple(ends)


def step_of(ends: Sequence[int], character: int) -> int:
    """The index of the step that holds a character of the trace."""
    return bisect_right(ends, character)
