"""The write-ahead log beside a journal: its frames, and whether SQLite would read all of them.

SQLite reads a log up to the first frame whose checksum is wrong, copies that much into the database and deletes the
log. That is right for a tail that a power cut has torn, and loses rows where a bit in the middle has flipped: sound
frames follow then. The format is that of https://www.sqlite.org/fileformat2.html#walformat.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from tracestill.data_pipeline.sampling.journal_files import sides

WAL_HEADER, FRAME_HEADER = 32, 24  # bytes
MAGIC = {0x377F0682: "<", 0x377F0683: ">"}  # -> order of the bytes in the words that are summed
MASK = 0xFFFFFFFF
LOOKS = 3  # another process may be writing while we read


def log_of(path: Path) -> bytes:
    """The log beside a journal; empty if there is none."""
    log, _ = sides(path)
    return log.read_bytes() if log.exists() else b""


def broken(path: Path) -> bool:
    """Whether sound frames in the log beside a journal follow what SQLite stops at. Raises OSError."""
    return all(stops_early(log_of(path)) for _ in range(LOOKS))


def stops_early(log: bytes) -> bool:
    """Whether sound frames follow what SQLite stops at: a broken header, or a broken frame."""
    if len(log) <= WAL_HEADER:
        return False
    if not has_sound_header(log):
        return any(log[WAL_HEADER:])
    order, size = MAGIC[int.from_bytes(log[:4], "big")], int.from_bytes(log[8:12], "big")
    at, before = WAL_HEADER, log[24:32]
    while is_sound(log, at, before, order, size):
        at, before = at + FRAME_HEADER + size, log[at + 16 : at + 24]
    places = range(at + FRAME_HEADER + size, len(log), FRAME_HEADER + size)
    return any(is_sound(log, place, log[place - size - 8 : place - size], order, size) for place in places)


def has_sound_header(log: bytes) -> bool:
    order = MAGIC.get(int.from_bytes(log[:4], "big"))
    return order is not None and checksum(log[:24], bytes(8), order) == log[24:32]


def is_sound(log: bytes, at: int, before: bytes, order: str, size: int) -> bool:
    """Whether a whole frame of this round begins here; ``before`` is the checksum up to it."""
    end = at + FRAME_HEADER + size
    if end > len(log) or log[at + 8 : at + 16] != log[16:24]:
        return False
    summed = checksum(log[at : at + 8], before, order)
    return checksum(log[at + FRAME_HEADER : end], summed, order) == log[at + 16 : at + 24]


def checksum(data: bytes, before: bytes, order: str) -> bytes:
    """8 bytes: two sums over 32-bit words, in turns, which go on from those ``before``."""
    first, second = struct.unpack(">II", before)
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for even, odd in zip(words, words, strict=True):
        first = first + even + second & MASK
        second = second + odd + first & MASK
    return struct.pack(">II", first, second)


def frames(log: bytes, size: int) -> Iterator[tuple[int, int]]:
    """Number of the pages in a log, and where each begins, the newest last; those of an earlier round are left out."""
    places = range(WAL_HEADER, len(log) - FRAME_HEADER - size + 1, FRAME_HEADER + size)
    salts = round_of(log, [log[at + 8 : at + 16] for at in places])
    for at in places:
        if log[at + 8 : at + 16] == salts:
            yield int.from_bytes(log[at : at + 4], "big"), at + FRAME_HEADER


def round_of(log: bytes, salts: list[bytes]) -> bytes:
    """The salts of a log's newest round: where its header is broken, those of its first frame if others have them."""
    if has_sound_header(log) or not salts:
        return log[16:24]
    counts = Counter(salts)
    return salts[0] if counts[salts[0]] > 1 else counts.most_common(1)[0][0]
