"""What may be taken out of a trace before it is cut and encoded; the record keeps its text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from tracestill.data_pipeline.base.schema import Record, Span

Cleaner = Literal["calculator"]
PATTERNS: dict[Cleaner, re.Pattern[str]] = {"calculator": re.compile(r"<<[^<>\n]{0,400}>>")}  # GSM8K's <<48/2=24>>


def cleaned(record: Record, cleaners: Sequence[Cleaner]) -> Record:
    """The record without what ``cleaners`` take out of its trace; spans that it has move along, empty ones go."""
    for name in cleaners:
        holes = [match.span() for match in PATTERNS[name].finditer(record.trace)]
        if not holes:
            continue
        trace = PATTERNS[name].sub("", record.trace)
        spans = (Span(moved(span.start, holes), moved(span.end, holes), span.kind) for span in record.spans)
        record = replace(record, trace=trace, spans=tuple(span for span in spans if span.end > span.start))
    return record


def moved(at: int, holes: Sequence[tuple[int, int]]) -> int:
    """Where a character stands when the holes before it are gone; the first one behind a hole, if it stood in it."""
    return at - sum(min(at, end) - start for start, end in holes if start < at)
