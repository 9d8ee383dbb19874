"""Rows of tables: CSV and TSV as text, Parquet and Arrow by their columns, batch by batch."""

from __future__ import annotations

import csv
import datetime
import decimal
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.well_formed import json_fault
from tracestill.data_pipeline.sampling.files.lines import LONGEST, TORN, Bad, Row, opened

BATCH = 1024  # rows of a table that are read at a time


def table_rows(path: Path, packed: str, delimiter: str, header: list[str] | None) -> Iterator[Row]:
    """Rows of a table in text. ``header``: names of its columns, where its first line is not theirs.

    TSV has no quotes: a cell is what stands between tabs.
    """
    csv.field_size_limit(LONGEST)
    quoting: Any = csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL
    with opened(path, packed) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        reader: Any = csv.reader(text, delimiter=delimiter, quoting=quoting, strict=True)
        names, at = header, 0
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                break
            except csv.Error as error:
                at += 1
                unclosed = "; a quote may be open from an earlier line on" if "unexpected end" in str(error) else ""
                fault = f"not a row of a table ({error}, at line {reader.line_num}{unclosed})"
                yield Row(at, None, b"", Bad("not_csv", fault))
                continue
            except TORN as error:
                yield Row(at + 1, None, b"", Bad("torn", f"what follows cannot be unpacked ({error})"))
                return
            if not any(cells):
                continue
            if names is None:
                names = [cell.strip() or str(position) for position, cell in enumerate(cells)]
                if twice := next((name for name in names if names.count(name) > 1), None):
                    raise InputError(f"{path}: the column {twice!r} stands twice in its first line; rename one")
                continue
            at += 1
            yield of_cells(at, names, cells, delimiter)


def of_cells(at: int, names: list[str], cells: list[str], delimiter: str) -> Row:
    text = delimiter.join(cells)
    if len(cells) != len(names):
        return Row(
            at, None, text, Bad("columns", f"{len(cells)} cells, expected {len(names)} ({', '.join(names)!r:.120})")
        )
    data = dict(zip(names, cells, strict=True))
    if fault := json_fault(data):
        half = any("\udc80" <= character <= "\udcff" for character in text)
        return Row(at, None, text, Bad("not_utf8", "holds bytes that are no UTF-8") if half else Bad(*fault))
    return Row(at, data, text)


def parquet_rows(path: Path, packed: str) -> Iterator[Row]:
    """Rows of a Parquet file. Raises InputError if it cannot be read."""
    del packed
    try:
        with pq.ParquetFile(path) as file:
            yield from of_batches(file.iter_batches(batch_size=BATCH))
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file ({' '.join(str(error).split())})") from error


def arrow_rows(path: Path, packed: str) -> Iterator[Row]:
    """Rows of an Arrow file, of either form. Raises InputError if it cannot be read."""
    del packed
    try:
        with pa.memory_map(str(path)) as source:
            try:
                file: Any = pa.ipc.open_file(source)
                batches = (file.get_batch(at) for at in range(file.num_record_batches))
            except pa.ArrowInvalid:
                source.seek(0)
                batches = iter(pa.ipc.open_stream(source))
            yield from of_batches(batches)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Arrow file ({' '.join(str(error).split())})") from error


def of_batches(batches: Iterator[Any]) -> Iterator[Row]:
    at = 0
    for batch in batches:
        for begin in range(0, batch.num_rows, BATCH):
            for data in of_batch(batch.slice(begin, BATCH)):
                at += 1
                yield row_of(at, data)


def of_batch(batch: Any) -> Iterator[dict[str, Any] | Bad]:
    try:
        yield from batch.to_pylist()
    except (UnicodeDecodeError, ValueError, OverflowError):  # text that is none: one row after the other
        for at in range(batch.num_rows):
            try:
                yield from batch.slice(at, 1).to_pylist()
            except (UnicodeDecodeError, ValueError, OverflowError) as error:
                yield Bad("not_utf8" if isinstance(error, UnicodeDecodeError) else "not_text", str(error))


def row_of(at: int, data: Any) -> Row:
    if isinstance(data, Bad):
        return Row(at, None, b"", data)
    plain = {name: jsonable(value) for name, value in data.items() if not isinstance(value, bytes | None)}
    if fault := json_fault(plain):
        return Row(at, None, ascii(data), Bad(*fault))
    return Row(at, plain, None)


def jsonable(value: Any) -> Any:
    """A cell as JSON would hold it: dates and decimals as text, of maps and lists each part."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(part) for part in value]
    if isinstance(value, datetime.date | datetime.time | datetime.timedelta | decimal.Decimal):
        return str(value)
    return ascii(value)
