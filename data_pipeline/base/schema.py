"""Questions and records as they lie in Parquet, and the Python objects made of their rows.

record = question + trace + answer + provenance. Spans say which part of a trace has which kind; they are
character offsets into the trace, sorted, without overlap, and cover it wholly.
"""

from __future__ import annotations

import hashlib
import numbers
import unicodedata
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError

AT_A_TIME, CHARACTERS = 8192, 1 << 24  # rows, and characters of them, in memory while a file is written
SPANS = pa.list_(pa.struct([("start", pa.int32()), ("end", pa.int32()), ("kind", pa.string())]))

GENERAL = "general"  # the `reader` of a record that is text as it is: without a trace, and perhaps without a question

QUESTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),  # digest of the text: see content_id
        ("question", pa.string()),
        ("gold", pa.string()),  # the reference answer
        ("split", pa.string()),  # train, validation or test
        ("group", pa.string()),  # template or topic the question comes from; splits by group use it
        ("metadata", pa.string()),  # JSON that the source attaches for its teachers
        ("source", pa.string()),  # the file or task that posed it, as the recipe names it
    ]
)

RECORD_SCHEMA = pa.schema(
    [
        ("record_id", pa.string()),  # digest of question, teacher, style, temperature and index
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("trace", pa.string()),
        ("answer", pa.string()),
        ("spans", SPANS),
        ("weight", pa.float32()),
        ("teacher", pa.string()),
        ("style", pa.string()),
        ("temperature", pa.float32()),
        ("index", pa.int32()),
        ("raw", pa.string()),  # what the teacher wrote; "" where it gave trace and answer by itself
        ("reader", pa.string()),  # what read trace and answer out of it; "" likewise
    ]
)
FIELDS = tuple(RECORD_SCHEMA.names)
OPTIONAL = ("raw", "reader", "source")  # texts that files of earlier versions lack

REJECTED_SCHEMA = RECORD_SCHEMA.append(pa.field("reason", pa.string())).append(pa.field("detail", pa.string()))


@dataclass(frozen=True)
class Span:
    """Characters [start, end) of a trace and the kind of the text between them."""

    start: int
    end: int
    kind: str


class Spans(Sequence[Span]):
    """Spans that cover a trace from its beginning, without an object for each: where they end, and their kinds."""

    __slots__ = ("ends", "kinds")

    def __init__(self, ends: Sequence[int], kinds: Sequence[str]) -> None:
        self.ends, self.kinds = ends, kinds

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, at: int) -> Span: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Span]: ...
    def __getitem__(self, at: int | slice) -> Span | Sequence[Span]:
        starts = [0, *self.ends[:-1]]
        if isinstance(at, slice):
            return [*map(Span, starts[at], self.ends[at], self.kinds[at])]
        return Span(starts[at], self.ends[at], self.kinds[at])

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (tuple(other) if isinstance(other, Spans) else other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))


@dataclass(frozen=True)
class Question:
    question_id: str
    question: str
    gold: str
    split: str
    group: str = ""
    metadata: dict[str, Any] = field(default_factory=dict)
    weight: float = 1.0  # finite, >= 0; that of a record is this times its teacher's
    source: str = field(default="", compare=False)  # of files: which of the recipe's; it makes no other question
    is_general: bool = False  # a text to go on writing as it is: no teacher is asked, no answer is judged


@dataclass(frozen=True)
class Record:
    record_id: str
    question_id: str
    question: str
    gold: str
    trace: str
    answer: str
    spans: Sequence[Span]
    weight: float
    teacher: str
    style: str
    temperature: float
    index: int
    raw: str = ""
    reader: str = ""


def content_id(text: str) -> str:
    """16 hex digits that are equal for texts that differ only in empty lines around them, white space at line ends, or
    Unicode's way of writing a character. Case, indentation and superscripts make other questions."""
    lines = unicodedata.normalize("NFC", text).splitlines()
    normal = "\n".join(line.rstrip() for line in lines).strip("\n")
    return hashlib.sha256(normal.encode()).hexdigest()[:16]


def weight_fault(weight: Any) -> str:
    """What makes a value no weight of a record, which the token store holds as float32; empty if nothing does."""
    if type(weight) is float and weight == 1:
        return ""  # nearly all of them
    expected = "expected a finite number >= 0"
    if isinstance(weight, bool) or not isinstance(weight, numbers.Real):
        return f"{expected}, got {weight!r:.80}"
    try:
        number = float(weight)
    except OverflowError:
        number = float("inf")
    with np.errstate(over="ignore", under="ignore"):
        held = np.float32(number)
    if not number >= 0 or not np.isfinite(held) or (number > 0 and held == 0):
        return f"{expected} that 32 bits can hold, got {weight!r:.80}"
    return ""


def write_rows(path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema) -> None:
    """Write rows as Parquet (zstd), some at a time. Equal rows give equal bytes."""
    held: list[dict[str, Any]] = []
    size = 0  # characters
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for row in rows:
            held.append(row)
            size += sum(len(value) for value in row.values() if isinstance(value, str))
            if len(held) >= AT_A_TIME or size >= CHARACTERS:
                writer.write_table(pa.Table.from_pylist(held, schema=schema))
                held, size = [], 0
        if held:
            writer.write_table(pa.Table.from_pylist(held, schema=schema))


def read_rows(path: Path, schema: pa.Schema, filters: list[tuple[str, str, Any]] | None = None) -> list[dict[str, Any]]:
    """Rows of a Parquet file, or those that pass ``filters`` (pyarrow's). Raises InputError if it is missing,
    unreadable, or lacks a column of ``schema``."""
    try:
        if filters is not None:
            table = pq.read_table(path, filters=filters)
        else:  # which imports no more than it needs
            with pq.ParquetFile(path) as file:
                table = file.read()
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({error})") from error
    return with_columns(path, table, schema).to_pylist()


def with_columns(path: Path, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema``. Raises InputError, naming the file that they come from, if some are missing; those
    that earlier versions did not write are empty."""
    for name in OPTIONAL:
        if name in schema.names and name not in table.column_names:
            table = table.append_column(name, pa.array([""] * table.num_rows, pa.string()))
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise InputError(f"{path}: lacks the columns {', '.join(missing)}")
    return table.select(schema.names)


def record_from_row(row: dict[str, Any]) -> Record:
    spans = tuple(Span(s["start"], s["end"], s["kind"]) for s in row["spans"] or ())
    return changed(Record, {name: row[name] for name in FIELDS}, spans)


def with_spans(record: Record, spans: Sequence[Span]) -> Record:
    """The record with these spans."""
    return changed(type(record), vars(record), spans)


def changed(made: type[Record], fields: Mapping[str, Any], spans: Sequence[Span]) -> Record:
    """A record of these fields, all of them, and spans. A frozen dataclass sets one field after the other, which takes
    longer than all else that is done to a record."""
    record = made.__new__(made)
    record.__dict__.update(fields, spans=spans)
    return record


def span_fault(trace: str, spans: Sequence[Span], kinds: Collection[str]) -> str | None:
    """What is wrong with spans, which must be sorted, cover the trace and name known kinds; None if nothing."""
    at = 0
    for span in spans:
        if span.kind not in kinds:
            return f"span kind '{span.kind}' is no kind of the trace ({', '.join(kinds)})"
        if span.start != at or span.end <= span.start:
            return f"span [{span.start}, {span.end}) should begin at {at} and hold a character"
        at = span.end
    return None if at == len(trace) else f"spans end at {at}, the trace at {len(trace)}"
