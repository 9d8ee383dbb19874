"""What a damaged journal still holds: rows are read out of its pages one by one, whatever else is broken.

SQLite cannot pass over a damaged page, nor does a journal without its first page, with a table dropped, or cut off,
open at all; Python's ``sqlite3`` lacks the shell's ``.recover``. But a row proves itself: its id is the digest of its
other columns. So every page of the file, and of the log beside it, is looked at for rows, and what passes is one.
The format is that of https://www.sqlite.org/fileformat2.html: index b-trees, for the tables have no row ids.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.heard import REASONS
from tracestill.data_pipeline.stage import digest_of

LEAF, INTERIOR = 0x0A, 0x02  # types of index pages; rows lie in both
PAGE = 4096  # bytes of a page, as SQLite makes it, where the file does not say
MAGIC = b"SQLite format 3\0"
WAL_HEADER, FRAME_HEADER = 32, 24  # bytes
NUMBERS = {1: ">b", 2: ">h", 4: ">i", 6: ">q", 7: ">d"}  # types of a record that struct knows
SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
HEX = re.compile(r"[0-9a-f]+")

Pages = Mapping[int, bytes]
Row = tuple[Any, ...]


@dataclass(frozen=True)
class Readable:
    """Rows of a journal's tables, as they are stored."""

    samples: list[Row]
    rejected: list[Row]
    inputs: list[Row]

    @property
    def count(self) -> int:
        """Samples, whether they can be used or not."""
        return len(self.samples) + len(self.rejected)


def readable(path: Path) -> Readable:
    """What can be read of the journal's tables (see ``journal``); a row that fails its digest is none.

    Raises OSError if the file itself cannot be read.
    """
    database = path.read_bytes() if path.exists() else b""
    log = path.with_name(f"{path.name}-wal")
    written = log.read_bytes() if log.exists() else b""
    size = page_size(database)
    held = {at // size + 1: database[at : at + size] for at in range(0, len(database), size)}
    newest = {**held, **dict(frames(written, size))}
    samples: dict[Row, list[Row]] = {}
    rejected: dict[Row, list[Row]] = {}
    digests: dict[Row, str] = {}
    inputs: dict[str, Row] = {}
    # what the log has replaced comes last: it fills gaps
    for pages, numbers in ((newest, newest), (held, [n for n in held if newest[n] is not held[n]])):
        for number in numbers:
            for row in rows_of(pages, number, size):
                if is_sample(row):
                    samples.setdefault(row[:2], []).append(row)
                elif is_rejected(row):
                    rejected.setdefault(row[:2], []).append(row)
                elif len(row) == 3 and is_hex(row[0], 16) and is_hex(row[2], 16):
                    digests.setdefault(row[:2], row[2])
                elif len(row) == 2 and is_hex(row[0], 64) and is_json(row[1], dict):
                    inputs.setdefault(row[0], row)

    def whole(found: dict[Row, list[Row]]) -> list[Row]:
        passed = ([r for r in rows if digests.get(key) in (None, digest_of_row(r))] for key, rows in found.items())
        return [rows[0] for rows in passed if rows]

    return Readable(whole(samples), whole(rejected), list(inputs.values()))


def digest_of_row(row: Row) -> str:
    """16 hex digits of what a teacher said: the last three columns, as they are stored."""
    return digest_of(list(row[-3:]))[:16]


def is_sample(row: Row) -> bool:
    """Whether these are the ten columns of a sample: its id is the digest of five others."""
    if len(row) != 10 or not all(isinstance(row[at], str) for at in (0, 1, 2, 3, 4, 7, 8, 9)):
        return False
    if not isinstance(row[5], int | float) or not isinstance(row[6], int):
        return False
    return digest_of([*row[2:5], float(row[5]), row[6]])[:16] == row[0] and is_json(row[9], list)


def is_rejected(row: Row) -> bool:
    """Whether these are the five columns of a sample that cannot be used; its reason proves it."""
    return len(row) == 5 and all(isinstance(part, str) for part in row) and is_hex(row[0], 16) and row[2] in REASONS


def is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and HEX.fullmatch(value) is not None


def is_json(text: object, kind: type) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), kind)
    except ValueError:
        return False


def page_size(database: bytes) -> int:
    """Bytes of a page, as the file says if it says so."""
    said = int.from_bytes(database[16:18], "big")
    said = 65536 if said == 1 else said
    return said if database.startswith(MAGIC) and said >= 512 and said & (said - 1) == 0 else PAGE


def frames(log: bytes, size: int) -> Iterator[tuple[int, bytes]]:
    """Number and content of the pages in a write-ahead log, the newest last; those of an earlier round are left out."""
    salts = log[16:24]
    for at in range(WAL_HEADER, len(log) - FRAME_HEADER - size + 1, FRAME_HEADER + size):
        if log[at + 8 : at + 16] == salts:
            yield int.from_bytes(log[at : at + 4], "big"), log[at + FRAME_HEADER : at + FRAME_HEADER + size]


def rows_of(pages: Pages, number: int, size: int) -> Iterator[Row]:
    """The rows that begin on a page; a cell that makes no sense is passed over."""
    page = pages[number]
    start = 100 if number == 1 else 0
    if len(page) <= start or page[start] not in (LEAF, INTERIOR):
        return
    leaf = page[start] == LEAF
    pointers = start + (8 if leaf else 12)
    for cell in range(int.from_bytes(page[start + 3 : start + 5], "big")):
        at = int.from_bytes(page[pointers + 2 * cell : pointers + 2 * cell + 2], "big")
        try:
            row = record(payload(pages, page, at if leaf else at + 4, size))
        except (IndexError, KeyError, ValueError, struct.error):
            continue
        yield row


def payload(pages: Pages, page: bytes, at: int, size: int) -> bytes:
    """A cell's bytes, its overflow pages included. A database of ours reserves no bytes at the end of a page."""
    length, at = varint(page, at)
    most, least = (size - 12) * 64 // 255 - 23, (size - 12) * 32 // 255 - 23
    if length > size * len(pages):
        raise ValueError("longer than the file")
    if length <= most:
        return exactly(page[at : at + length], length)
    here = least + (length - least) % (size - 4)
    here = here if here <= most else least
    parts = [exactly(page[at : at + here], here)]
    missing, follows = length - here, int.from_bytes(page[at + here : at + here + 4], "big")
    while missing > 0:
        more = pages[follows]
        parts.append(exactly(more[4:size], size - 4)[:missing])
        missing, follows = missing - len(parts[-1]), int.from_bytes(more[:4], "big")
    return b"".join(parts)


def record(data: bytes) -> Row:
    """The values of a record: its header tells the type of each."""
    end, at = varint(data, 0)
    types = []
    while at < end:
        kind, at = varint(data, at)
        types.append(kind)
    values: list[Any] = []
    for kind in types:
        length = SIZES[kind] if kind < 12 else (kind - 12) // 2
        part = exactly(data[at : at + length], length)
        if kind >= 12:
            values.append(part.decode("utf-8") if kind % 2 else part)
        elif kind in NUMBERS:
            values.append(struct.unpack(NUMBERS[kind], part)[0])
        else:
            number = int.from_bytes(part, "big", signed=True)  # of 3 or 6 bytes
            values.append(None if kind == 0 else kind - 8 if kind in (8, 9) else number)
        at += length
    return tuple(values)


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of one to nine bytes, and where the next one begins."""
    value = 0
    for byte in range(8):
        value = value << 7 | data[at + byte] & 0x7F
        if data[at + byte] < 0x80:
            return value, at + byte + 1
    return value << 8 | data[at + 8], at + 9


def exactly(part: bytes, length: int) -> bytes:
    if len(part) != length:
        raise ValueError("cut off")
    return part
