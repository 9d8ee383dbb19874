"""What is known of each training document, beside the token store and in its order: who wrote it, how, about what.

A plan mixes and orders documents by these columns. They lie in ``documents.parquet``, which any Parquet tool opens; a
plan reads no more of them than its recipe names.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest

FILE = "documents.parquet"
AT_A_TIME = 1 << 16  # rows
IDS = ("id", "record_id", "question_id")
TEXTS = ("teacher", "style", "source", "group")
NUMBERS = ("difficulty", "trace_tokens")
KNOWN = (*TEXTS, *NUMBERS)


def schema_of(own: Mapping[str, pa.DataType]) -> pa.Schema:
    """``own``: columns of the questions' metadata, by name: float64 or string."""
    return pa.schema(
        [
            ("id", pa.string()),  # as in the token store
            ("record_id", pa.string()),
            ("question_id", pa.string()),
            ("teacher", pa.string()),
            ("style", pa.string()),
            ("source", pa.string()),  # of the question: the file or task that posed it, as the recipe names it
            ("group", pa.string()),
            ("difficulty", pa.float32()),  # share of the question's samples that are not right; null: not known
            ("trace_tokens", pa.int32()),
            *own.items(),
        ]
    )


class ColumnsWriter:
    """Writes the table, some rows at a time. After an exception inside ``with`` the file does not open."""

    def __init__(self, path: Path, own: Mapping[str, pa.DataType]) -> None:
        self.schema = schema_of(own)
        self.file = path.open("wb")
        self.writer = pq.ParquetWriter(self.file, self.schema, compression="zstd")
        self.rows: list[dict[str, Any]] = []

    def __enter__(self) -> ColumnsWriter:
        return self

    def __exit__(self, type_: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if type_ is None:
            self.flush()
            self.writer.close()
        else:
            self.writer.is_open = False  # no footer: it is not whole
        self.file.close()

    def add(self, row: dict[str, Any]) -> None:
        self.rows.append(row)
        if len(self.rows) >= AT_A_TIME:
            self.flush()

    def flush(self) -> None:
        if self.rows:
            self.writer.write_table(pa.Table.from_pylist(self.rows, schema=self.schema))
            self.rows = []


class Columns:
    """Read access to the columns of N documents.

    Raises InputError if the table is missing (a store of an earlier version), unreadable, or of other documents.
    """

    def __init__(self, path: Path, documents: int) -> None:
        self.path = path
        if not path.exists():
            raise InputError(
                f"{path}: is missing: this store is of an earlier version, and what plan.mixture, plan.order or "
                f"plan.keep needs is not known of its documents; delete {path.parent} and encode again"
            )
        try:
            with pq.ParquetFile(path) as file:
                self.types = {field.name: field.type for field in file.schema_arrow}
                rows = file.metadata.num_rows
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: not a readable Parquet file ({error}); encode again") from error
        if rows != documents:
            raise InputError(f"{path}: has {rows} rows, the token store {documents} documents; encode again")

    @cached_property
    def ids(self) -> list[str]:
        return self.read("id").to_pylist()

    def read(self, name: str, **how: Any) -> pa.Array:
        """Raises InputError naming the nearest column if there is none of this name."""
        if name not in self.types:
            known = ["length", *KNOWN, *(own for own in self.types if own not in schema_of({}).names)]
            raise InputError(f"{self.path}: has no column '{name}'{nearest(name, known)}")
        return pq.read_table(self.path, columns=[name], **how).column(name).combine_chunks()

    def is_text(self, name: str) -> bool:
        return pa.types.is_string(self.types[name]) if name in self.types else pa.types.is_string(self.read(name).type)

    def texts(self, name: str) -> tuple[np.ndarray, list[str]]:
        """((N,) int32 place of each document's value in the list, -1 where it has none; the different values)."""
        column = self.read(name, read_dictionary=[name])
        column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        codes = pc.fill_null(column.indices, -1).to_numpy(zero_copy_only=False).astype(np.int32, copy=False)
        return codes, column.dictionary.to_pylist()

    def numbers(self, name: str) -> np.ndarray:
        """(N,) float64; NaN where a document has none. Raises InputError for a column of texts."""
        column = self.read(name)
        if pa.types.is_string(column.type):
            seen = pc.unique(column).to_pylist()[:3]
            raise InputError(f"{self.path}: column '{name}' holds texts ({', '.join(map(repr, seen))}), not numbers")
        return column.to_numpy(zero_copy_only=False).astype(np.float64)


def own_types(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, pa.DataType]:
    """The type of each column of metadata: numbers, or texts if one value is none. Raises InputError for a name that
    no question has."""
    found: dict[str, pa.DataType] = {}
    for name in names:
        values = [row[name] for row in rows if row.get(name) is not None]
        if not values:
            known = sorted({key for row in rows[:1000] for key in row})
            has = f"there are {', '.join(known)}" if known else "there is none"
            raise InputError(
                f"plan: no question has '{name}' in its metadata ({has}); of files, name it in "
                f"questions.fields.metadata{nearest(name, ['length', *KNOWN, *known])}"
            )
        found[name] = pa.float64() if all(map(is_number, values)) else pa.string()
    return found


def is_number(value: Any) -> bool:
    """Whether a float holds a value; one with more digits than that is a name."""
    return isinstance(value, float) or (type(value) is int and abs(value) <= sys.float_info.max)


def own_value(value: Any, type_: pa.DataType) -> Any:
    """A value of metadata as it stands in the table."""
    if value is None:
        return None
    return float(value) if type_ == pa.float64() else value if isinstance(value, str) else str(value)
