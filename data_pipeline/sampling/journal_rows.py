"""A journal's tables, and what was said as the last three columns of a row, and back."""

from __future__ import annotations

import json

from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.sampling.teachers import Said, Solution
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules

TABLE = """
CREATE TABLE samples (
    record_id TEXT NOT NULL,
    binding TEXT NOT NULL,
    question_id TEXT NOT NULL,
    teacher TEXT NOT NULL,
    style TEXT NOT NULL,
    temperature REAL NOT NULL,
    position INTEGER NOT NULL,
    trace TEXT NOT NULL,
    answer TEXT NOT NULL,
    spans TEXT NOT NULL,
    PRIMARY KEY (record_id, binding),
    UNIQUE (question_id, teacher, style, temperature, position, binding)
) WITHOUT ROWID
"""
REJECTED = """
CREATE TABLE IF NOT EXISTS rejected (
    record_id TEXT NOT NULL,
    binding TEXT NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    said TEXT NOT NULL,
    PRIMARY KEY (record_id, binding)
) WITHOUT ROWID
"""
DIGESTS = """
CREATE TABLE IF NOT EXISTS digests (
    record_id TEXT NOT NULL,  -- or the teacher, of a row of inputs
    binding TEXT NOT NULL,
    digest TEXT NOT NULL,  -- of the last three columns: SQLite does not notice a bit that flips in a text
    PRIMARY KEY (record_id, binding)
) WITHOUT ROWID
"""
FIRST_SEEN = """
CREATE TABLE IF NOT EXISTS inputs (
    teacher TEXT NOT NULL PRIMARY KEY,  -- a digest of its module and options
    files TEXT NOT NULL  -- name -> sha256 of those that were there when it was first asked, as JSON
) WITHOUT ROWID
"""


def columns_of(said: Solution | Said) -> tuple[str, str, str]:
    """The columns trace, answer and spans.

    Of a solution, spans are ``{spans, weight}`` as JSON, a span being [start, end, kind], or an empty list where it has
    neither. (Versions that cut traces when they sampled wrote a list of spans, their own ones too.) Of an unread text
    the columns are its reasoning, the text, and ``{said: [answer, finish], weight}``, with ``spans`` and ``details``
    where it has some.
    """
    spans = [[span.start, span.end, span.kind] for span in said.spans or ()]
    if isinstance(said, Said):
        held = {"said": [said.answer, said.finish], "weight": said.weight, **({"spans": spans} if spans else {})}
        held |= {} if said.details is None else {"details": said.details}
        return said.reasoning, said.raw, json.dumps(held)
    plain = not spans and said.weight == 1
    return said.trace, said.answer, json.dumps([] if plain else {"spans": spans, "weight": said.weight})


def said_of(trace: str, answer: str, text: str) -> Solution | Said:
    """What was said, of the last three columns."""
    held = json.loads(text)
    if isinstance(held, dict) and "said" in held:
        given, finish = held["said"]
        spans = tuple(Span(*span) for span in held["spans"]) if "spans" in held else None
        return Said(answer, trace, given, finish, held["weight"], spans, held.get("details"))
    rows, weight = (held["spans"], held["weight"]) if isinstance(held, dict) else (held, 1.0)
    spans = tuple(Span(*span) for span in rows)
    if spans and not isinstance(held, dict) and spans == spans_of(rules("", trace)):
        spans = ()  # the teacher gave none
    return Solution(trace, answer, spans, weight)
