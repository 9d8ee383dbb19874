"""Rows of text files whose rows are lines: JSONL, and how bytes are read from plain and packed files."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.well_formed import json_fault
from tracestill.data_pipeline.sampling.files.rejected import Rejected

LONGEST = 1 << 23  # bytes of a row; the rest of a longer one is passed over
KEPT = 1 << 20  # characters of a rejected row that are kept
BOM = b"\xef\xbb\xbf"
TORN = (EOFError, zlib.error, pa.ArrowException, gzip.BadGzipFile)


class Bad(ValueError):
    """A row that cannot be used: ``reason``, and in words what was found and expected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Row(NamedTuple):
    """One row of a file, from 1 on: its values, or why it has none."""

    at: int
    data: dict[str, Any] | None
    text: bytes | str | None  # as it stands in the file; None: ``data`` as Python shows it
    fault: Bad | None = None


def rejected(place: str, row: Row, reason: str, detail: str) -> Rejected:
    if isinstance(row.text, bytes):
        text = row.text[:KEPT].decode(errors="backslashreplace").rstrip("\r\n")
    else:
        text = ascii(row.data) if row.text is None else row.text.encode(errors="backslashreplace").decode()
    return Rejected(f"{place}:{row.at}", reason, detail, text[:KEPT], place, row.at)


@contextlib.contextmanager
def opened(path: Path, packed: str) -> Iterator[io.BufferedReader]:
    """Bytes of a file. Raises InputError if it cannot be opened."""
    try:
        if packed == "gzip":
            file: Any = gzip.open(path, "rb")  # noqa: SIM115 (closed below)
        elif packed == "zstd":
            file = io.BufferedReader(pa.input_stream(str(path), compression="zstd"), 1 << 20)
        else:
            file = path.open("rb")
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not readable ({getattr(error, 'strerror', None) or error})") from error
    with file:
        yield file


def jsonl_rows(path: Path, packed: str) -> Iterator[Row]:
    """Rows of a file of JSON objects, one a line; blank lines are none."""
    with opened(path, packed) as file:
        for at, line, fault in numbered(file):
            if fault is not None:
                yield Row(at, None, line, fault)
            elif line.strip():
                try:
                    yield Row(at, object_of(line), line)
                except Bad as bad:
                    yield Row(at, None, line, bad)


def numbered(file: io.BufferedReader) -> Iterator[tuple[int, bytes, Bad | None]]:
    """The lines of a file from 1 on, their ends included, of each at most LONGEST + 1 bytes; and what a packed file
    that is torn ends in."""
    at = 0
    try:
        while line := file.readline(LONGEST + 1):
            at += 1
            rest = line
            while len(rest) > LONGEST and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST + 1)
            yield at, line.removeprefix(BOM) if at == 1 else line, None
    except TORN as error:
        yield at + 1, b"", Bad("torn", f"what follows cannot be unpacked ({error})")


def object_of(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises Bad."""
    if len(line.rstrip(b"\r\n")) > LONGEST:
        raise Bad("too_long", f"a line of more than {LONGEST:,} bytes")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise Bad("not_utf8", f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start})") from error
    return checked(parsed(text))


def parsed(text: str) -> Any:
    """A value of JSON. Raises Bad."""
    try:
        return json.loads(text, object_pairs_hook=once)
    except RecursionError as error:
        raise Bad("nested", "nested deeper than JSON is read") from error
    except Bad:
        raise
    except ValueError as error:
        raise Bad("not_json", f"not valid JSON ({error})") from error


def checked(data: Any) -> dict[str, Any]:
    """Data as the values of a row. Raises Bad if it is no object, or holds what cannot be kept."""
    if not isinstance(data, dict):
        raise Bad("not_an_object", f"expected an object with question and gold, got {type(data).__name__}")
    if fault := json_fault(data):
        raise Bad(*fault)
    return data


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises Bad if a key stands in it twice: one of the values would be lost."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for at, key in enumerate(keys) if key in keys[:at])
        raise Bad("not_json", f"the key {twice!r:.80} stands twice in an object")
    return found
