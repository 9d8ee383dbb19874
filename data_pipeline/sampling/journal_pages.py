"""What a damaged journal still holds: rows are read out of its pages one by one, whatever else is broken.

SQLite cannot pass over a damaged page, nor does a journal without its first page, with a table dropped, or cut off,
open at all; Python's ``sqlite3`` lacks the shell's ``.recover``. But a row proves itself: its id is the digest of its
other columns. So every page of the file, and of the log beside it, is looked at for rows, and what passes is one.
The format is that of https://www.sqlite.org/fileformat2.html: index b-trees, for the tables have no row ids.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tracestill.data_pipeline.base.stage import digest_of
from tracestill.data_pipeline.sampling.heard import REASONS
from tracestill.data_pipeline.sampling.journal_log import frames, log_of

LEAF, INTERIOR = 0x0A, 0x02  # types of index pages; rows lie in both
SCHEMA = 0x0D  # type of the first page, which lists the tables, if one page suffices
PAGE = 4096  # bytes of a page, as SQLite makes it, where the file does not say
MAGIC = b"SQLite format 3\0"
NUMBERS = {1: ">b", 2: ">h", 4: ">i", 6: ">q", 7: ">d"}  # types of a record that struct knows
SIZES = {0: 0, 1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8, 7: 8, 8: 0, 9: 0}
HEX = re.compile(r"[0-9a-f]+")

Row = tuple[Any, ...]


class Pages:
    """The pages of a journal by number, 1 the first, read when they are asked for: those of the file, or, where the
    log has newer ones (number -> where it begins in ``log``), these."""

    def __init__(self, file: BinaryIO | None, size: int, log: bytes, newer: dict[int, int]) -> None:
        self.file, self.size, self.log, self.newer = file, size, log, newer
        self.bytes = 0 if file is None else os.fstat(file.fileno()).st_size
        self.count = -(-self.bytes // size)

    def __getitem__(self, number: int) -> bytes:
        if (at := self.newer.get(number)) is not None:
            return self.log[at : at + self.size]
        if self.file is None or not 0 < number <= self.count:
            raise KeyError(number)
        return os.pread(self.file.fileno(), self.size, (number - 1) * self.size)

    def numbers(self) -> Iterator[int]:
        yield from range(1, self.count + 1)
        yield from (number for number in self.newer if number > self.count)

    def __len__(self) -> int:
        return self.count + len(self.newer)


@dataclass(frozen=True)
class Readable:
    """What a journal's tables still hold: table -> (key -> digest) of the rows that pass. Rows are read again when they
    are asked for: all of them may be more than the memory holds."""

    path: Path
    passed: dict[str, dict[Row, str]]

    @property
    def count(self) -> int:
        """Samples, whether they can be used or not."""
        return len(self.passed["samples"]) + len(self.passed["rejected"])

    def rows(self, table: str) -> Iterator[Row]:
        """The rows of a table, as they are stored, each key once."""
        left = dict(self.passed[table])
        for of, row in found_in(self.path):
            if of == table and left.get(key := key_of(table, row)) == digest_of_row(row):
                del left[key]
                yield row


def readable(path: Path) -> Readable:
    """What can be read of the journal's tables (see ``journal``); a row that fails its digest is none.

    Raises OSError if the file itself cannot be read.
    """
    said: dict[str, dict[Row, list[str]]] = {"samples": {}, "rejected": {}, "inputs": {}, "notes": {}}
    digests: dict[Row, str] = {}
    for table, row in found_in(path):
        if table == "digests":
            digests.setdefault(row[:2], row[2])
        else:
            said[table].setdefault(key_of(table, row), []).append(digest_of_row(row))
    passed: dict[str, dict[Row, str]] = {}
    for table, rows in said.items():
        whole = {key: [one for one in ones if digests.get(key) in (None, one)] for key, ones in rows.items()}
        passed[table] = {key: ones[0] for key, ones in whole.items() if ones}
    passed["rejected"] = {key: one for key, one in passed["rejected"].items() if key not in passed["samples"]}
    return Readable(path, passed)


def found_in(path: Path) -> Iterator[tuple[str, Row]]:
    """Table and content of all that looks like a row of ours, the newest first."""
    whole, log = path.resolve(), log_of(path)
    with whole.open("rb") if whole.exists() else contextlib.nullcontext(None) as file:
        size = page_size(os.pread(file.fileno(), 100, 0) if file else b"")
        newest = Pages(file, size, log, dict(frames(log, size)))
        old = Pages(file, size, b"", {})
        unused = free_pages(newest)
        replaced = (number for number in newest.newer if 0 < number <= old.count)
        # what the log has replaced comes last: it fills gaps
        for pages, numbers in ((newest, newest.numbers()), (old, replaced)):
            for number in numbers:
                if number not in unused:
                    yield from ((table, row) for row in rows_of(pages, number) if (table := table_of(row)))


def free_pages(pages: Pages) -> set[int]:
    """Pages that hold deleted rows only; none where the first page, or their list, is in doubt, or a table is gone."""
    free: set[int] = set()
    try:
        first = pages[1]
        if not first.startswith(MAGIC) or not {"samples", "rejected"} <= tables_on(pages, first):
            return set()
        trunk, count = struct.unpack(">II", first[32:40])
        while trunk and trunk not in free:
            page = pages[trunk]
            leaves = struct.unpack_from(f">{int.from_bytes(page[4:8], 'big')}I", page, 8)
            free |= {trunk, *leaves}
            trunk = int.from_bytes(page[:4], "big")
    except (IndexError, KeyError, ValueError, struct.error):
        return set()
    return free if len(free) == count else set()


def tables_on(pages: Pages, first: bytes) -> set[str]:
    """Names of the tables that the first page lists."""
    names = set()
    for cell in range(int.from_bytes(first[103:105], "big") if first[100] == SCHEMA else 0):
        at = int.from_bytes(first[108 + 2 * cell : 110 + 2 * cell], "big")
        length, at = varint(first, at)
        _, at = varint(first, at)
        names.add(str(record(exactly(first[at : at + length], length))[1]))
    return names


def table_of(row: Row) -> str | None:
    """The table that a row proves to be of."""
    if is_sample(row):
        return "samples"
    if is_rejected(row):
        return "rejected"
    if len(row) == 3 and (is_hex(row[0], 16) or is_hex(row[0], 64)) and is_hex(row[2], 16):
        return "digests"
    if len(row) == 2 and is_hex(row[0], 64) and is_json(row[1], dict):
        return "inputs"
    return "notes" if is_note(row) else None


def key_of(table: str, row: Row) -> Row:
    """What its digest is filed under."""
    return (row[0], table) if table == "inputs" else row[:2]


def digest_of_row(row: Row) -> str:
    """16 hex digits of what a teacher said: the last three columns, as they are stored."""
    return digest_of(list(row[-3:]))[:16]


def is_sample(row: Row) -> bool:
    """Whether these are the ten columns of a sample: its id is the digest of five others."""
    if len(row) != 10 or not all(isinstance(row[at], str) for at in (0, 1, 2, 3, 4, 7, 8, 9)):
        return False
    if not isinstance(row[5], int | float) or not isinstance(row[6], int):
        return False
    return digest_of([*row[2:5], float(row[5]), row[6]])[:16] == row[0] and is_json(row[9], list | dict)


def is_rejected(row: Row) -> bool:
    """Whether these are the five columns of a sample that cannot be used; its reason proves it."""
    return len(row) == 5 and all(isinstance(part, str) for part in row) and is_hex(row[0], 16) and row[2] in REASONS


def is_note(row: Row) -> bool:
    """Whether these are the three columns of a note: of money drawn, or of a batch under way."""
    if len(row) != 3 or not all(isinstance(part, str) for part in row):
        return False
    if row[:2] == ("", "budget"):
        return is_json(row[2], float)
    return bool(row[1].startswith("batch ")) and is_json(row[2], dict)


def is_hex(value: object, length: int) -> bool:
    return isinstance(value, str) and len(value) == length and HEX.fullmatch(value) is not None


def is_json(text: object, type_: Any) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), type_)
    except ValueError:
        return False


def page_size(database: bytes) -> int:
    """Bytes of a page, as the file says if it says so."""
    said = int.from_bytes(database[16:18], "big")
    said = 65536 if said == 1 else said
    return said if database.startswith(MAGIC) and said >= 512 and said & (said - 1) == 0 else PAGE


def rows_of(pages: Pages, number: int) -> Iterator[Row]:
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
            row = record(payload(pages, page, at if leaf else at + 4))
        except (IndexError, KeyError, ValueError, struct.error):
            continue
        yield row


def payload(pages: Pages, page: bytes, at: int) -> bytes:
    """A cell's bytes, its overflow pages included. A database of ours reserves no bytes at the end of a page."""
    size = pages.size
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
    seen: set[int] = set()
    while missing > 0:
        if follows in seen:
            raise ValueError("its pages go round in a circle")
        seen.add(follows)
        more = pages[follows]
        parts.append(exactly(more[4:size], size - 4)[:missing])
        missing, follows = missing - len(parts[-1]), int.from_bytes(more[:4], "big")
    return b"".join(parts)


def record(data: bytes) -> Row:
    """The values of a record: its header tells the type of each."""
    end, at = varint(data, 0)
    types = []
    while at < end:
        code, at = varint(data, at)
        types.append(code)
    values: list[Any] = []
    for code in types:
        length = SIZES[code] if code < 12 else (code - 12) // 2
        part = exactly(data[at : at + length], length)
        if code >= 12:
            values.append(part.decode("utf-8") if code % 2 else part)
        elif code in NUMBERS:
            values.append(struct.unpack(NUMBERS[code], part)[0])
        else:
            number = int.from_bytes(part, "big", signed=True)  # of 3 or 6 bytes
            values.append(None if code == 0 else code - 8 if code in (8, 9) else number)
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
