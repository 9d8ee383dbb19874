"""Documents as text: each stretch of one kind, and of a trace what gave it: a rule, a model, the teacher, yours."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pyarrow.parquet as pq

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, Record, read_rows, record_from_row
from tracestill.data_pipeline.documents.round_trip import unspaced
from tracestill.data_pipeline.granularity import Cut
from tracestill.data_pipeline.guards.visible import one_line
from tracestill.data_pipeline.segmentation import Part, SegmentConfig, Segmenter, own_module
from tracestill.data_pipeline.tokens.pieces import FOLLOWS


def find_records(path: Path, wanted: Collection[str]) -> dict[str, Record]:
    """Records of a Parquet file by id; those that are wanted and there. Raises InputError if it cannot be read."""
    rows = read_rows(path, RECORD_SCHEMA, [("record_id", "in", list(wanted))])
    return {row["record_id"]: record_from_row(row) for row in rows}


def why_absent(record: str, encode: Path, select: Path) -> str:
    """Why a record has no document, in words."""
    for stage, directory in (("select", select), ("encode", encode)):
        path = directory / "rejected.parquet"
        if path.exists():
            found = pq.read_table(path, columns=["record_id", "reason", "detail"],
                                  filters=[("record_id", "==", record)]).to_pylist()  # fmt: skip
            if found:
                return f"{stage} rejected it: {found[0]['reason']} ({found[0]['detail']})"
    return f"no record of this id; ids stand in {select / 'records.parquet'}"


def text_lines(
    texts: Sequence[str],  # of the tokens
    names: Sequence[str],  # of their kinds
    record: Record | None,
    trace_kinds: Collection[str],
    segment: SegmentConfig,
    after: Cut | None = None,  # what ``encode.granularity`` left of the record's trace
) -> Iterator[tuple[str, str, str]]:
    """Kind, text and why it has the kind: the document's stretches, with the record's own parts in place of its trace.

    Without the record, or if a part of the trace was cut out of the document, the trace is shown as its tokens are;
    so it is where a function of the user's cut it, which is not imported to look.
    """
    own = own_module(segment) is not None
    cut = Segmenter(segment.model_copy(update={"by": "spans"}) if own else segment)
    given = record is not None and bool(record.spans)
    record = None if record is None else cut(record)
    left = after.record.trace if after is not None else record.trace if record is not None else None
    written = [(name, "".join(t for _, t in group if t != FOLLOWS))
               for name, group in groupby(zip(names, texts, strict=True), key=lambda pair: pair[0])]  # fmt: skip
    in_trace = [name in trace_kinds for name, _ in written]
    trace = "".join(text for (_, text), inside in zip(written, in_trace, strict=True) if inside)
    whole = left is not None and unspaced(trace) == unspaced(left)
    for at, (name, text) in enumerate(written):
        if not in_trace[at]:
            yield name, shown(text), ""
        elif not whole:
            yield name, shown(text), "not as in its record: cut, changed by the tokenizer, or the record is gone"
        elif own and not given:
            yield name, shown(text), f"by {segment.by}"
        elif not any(in_trace[:at]):
            assert record is not None
            yield from reasons(record, None if given else cut, after)


def reasons(record: Record, cut: Segmenter | None, after: Cut | None) -> Iterator[tuple[str, str, str]]:
    """Kind and text of each part of a record's trace, or of what is left ``after`` it was cut, and what decided on it;
    without ``cut``, its teacher did."""
    parts = [Part(span.kind, span.end, f"by the teacher {record.teacher}") for span in record.spans]
    if cut is not None:
        parts = list(cut.parts(record.question, record.trace))
    ends = [part.end for part in parts]
    trace = after.record.trace if after is not None else record.trace
    origin = after.origin if after is not None and after.origin else range(len(trace))
    for at, characters in groupby(range(len(trace)), key=lambda i: bisect_right(ends, origin[i])):
        part, why = parts[at], " ".join(parts[at].why.split())
        if cut is not None:
            why = f"by {cut.config.by}: {part.kind}, found {why!r}" if why else f"by {cut.config.by}: no other holds"
        yield part.kind, shown("".join(trace[i] for i in characters)), why


def shown(text: str) -> str:
    """A text on one line."""
    return one_line(text.strip(" "))
