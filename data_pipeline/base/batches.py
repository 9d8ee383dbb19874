"""Parquet files of any length, some rows in memory at a time: read in order, read by number, written."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import AT_A_TIME, CHARACTERS, OPTIONAL, with_columns

GROUPS = 8  # row groups of a file that are held at a time


class Rows:
    """The rows of a Parquet file. Raises InputError if it is missing, unreadable, or lacks a column of ``schema``."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.path, self.schema = path, schema
        try:
            self.file = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as error:
            raise self.unreadable(error) from error
        with_columns(path, self.file.schema_arrow.empty_table(), schema)
        groups = range(self.file.num_row_groups)
        self.ends = np.cumsum([self.file.metadata.row_group(at).num_rows for at in groups], dtype=np.int64)
        self.held: OrderedDict[int, pa.Table] = OrderedDict()

    def __len__(self) -> int:
        return int(self.file.metadata.num_rows)

    def batches(self, size: int, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in order, ``size`` at a time (the last: fewer), with these columns of the schema (None: all).

        Raises InputError as above, and naming the row if a text is null.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        names = [name for name in schema.names if name in self.file.schema_arrow.names]
        texts = [field.name for field in schema if pa.types.is_string(field.type) and field.name not in OPTIONAL]
        start = 0
        try:
            for batch in self.file.iter_batches(size, columns=names):
                table = with_columns(self.path, pa.Table.from_batches([batch]), schema).cast(schema)
                for name in texts:
                    if table[name].null_count:
                        row = start + table[name].is_null().to_pylist().index(True)
                        raise InputError(f"{self.path}: row {row} (from 0): its {name} is null, expected a text")
                start += len(table)
                yield table
        except (OSError, pa.ArrowException) as error:
            raise self.unreadable(error) from error

    def at(self, places: Sequence[int] | np.ndarray) -> list[dict[str, Any]]:
        """Rows by their numbers. Cheap where they stand near those that were asked for before."""
        found = []
        for group, those in groupby(places, lambda place: int(np.searchsorted(self.ends, place, side="right"))):
            first = int(self.ends[group - 1]) if group else 0
            found += self.group(group).take([int(place) - first for place in those]).to_pylist()
        return found

    def group(self, number: int) -> pa.Table:
        if number in self.held:
            self.held.move_to_end(number)
        else:
            try:
                self.held[number] = with_columns(self.path, self.file.read_row_group(number), self.schema)
            except (OSError, pa.ArrowException) as error:
                raise self.unreadable(error) from error
            if len(self.held) > GROUPS:
                self.held.popitem(last=False)
        return self.held[number]

    def unreadable(self, error: Exception) -> InputError:
        return InputError(f"{self.path}: not a readable Parquet file ({error})")


class Writer:
    """Writes tables as one Parquet file (zstd), in row groups as ``schema.write_rows`` makes them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.file = schema, pq.ParquetWriter(path, schema, compression="zstd")
        self.held: list[pa.Table] = []
        self.rows = self.bytes = 0

    def add(self, table: pa.Table) -> None:
        if table.num_rows:
            self.held.append(table.cast(self.schema))
            self.rows, self.bytes = self.rows + table.num_rows, self.bytes + table.nbytes
        if self.rows >= AT_A_TIME or self.bytes >= CHARACTERS:
            self.flush()

    def flush(self) -> None:
        if self.held:
            self.file.write_table(pa.concat_tables(self.held).combine_chunks())
        self.held, self.rows, self.bytes = [], 0, 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if kind is None:
            self.flush()
        self.file.close()
