"""Rows of one JSON document: the items of an array, read piece by piece, or of the list that an object holds."""

from __future__ import annotations

import codecs
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.files.lines import (
    BOM,
    KEPT,
    LONGEST,
    TORN,
    Bad,
    Row,
    checked,
    jsonl_rows,
    opened,
    parsed,
)

BLOCK = 1 << 18  # bytes read at a time
WHOLE = 1 << 28  # bytes of a document that is no array: it is read as a whole
STRUCTURE = re.compile(r'["\[\]{},]')
FOREIGN = re.compile("[\udc80-\udcff]")  # a byte that is no UTF-8, as Python's surrogateescape keeps it
IN_TEXT = re.compile(r'["\\]')


def json_rows(path: Path, packed: str) -> Iterator[Row]:
    """Rows of a .json file: an array's items, those of the one list in an object, or lines of objects."""
    with opened(path, packed) as file:
        try:
            head = file.read(1 << 16).removeprefix(BOM).lstrip()
        except TORN as error:
            yield Row(1, None, b"", Bad("torn", f"it cannot be unpacked ({error})"))
            return
    if head.startswith(b"["):
        with opened(path, packed) as file:
            yield from items(file)
    elif b"\n" in head and is_object(head[: head.index(b"\n")]):
        yield from jsonl_rows(path, packed)
    else:
        yield from of_document(path, packed)


def is_object(line: bytes) -> bool:
    try:
        return isinstance(parsed(line.decode()), dict)
    except (Bad, UnicodeDecodeError):
        return False


def of_document(path: Path, packed: str) -> Iterator[Row]:
    """Rows of the one list of objects that an object holds, of an object of objects, or the object itself."""
    with opened(path, packed) as file:
        try:
            data = file.read(WHOLE + 1)
        except TORN as error:
            yield Row(1, None, b"", Bad("torn", f"it cannot be unpacked ({error})"))
            return
    if len(data) > WHOLE:
        raise InputError(
            f"{path}: an object of more than {WHOLE >> 20} MiB; write an array, or JSON lines, of its rows"
        )
    if not data.strip():
        return
    try:
        value = parsed(data.removeprefix(BOM).decode())
    except (Bad, UnicodeDecodeError) as error:
        bad = error if isinstance(error, Bad) else Bad("not_utf8", f"not UTF-8 (byte {error.start})")
        yield Row(1, None, data, bad)
        return
    if not isinstance(value, dict):
        yield Row(1, None, data, Bad("not_an_object", f"expected rows, got {type(value).__name__}"))
        return
    lists = [held for held in value.values() if isinstance(held, list) and any(isinstance(i, dict) for i in held)]
    found = lists[0] if len(lists) == 1 else [value]
    if len(value) > 1 and all(isinstance(held, dict) for held in value.values()):
        found = list(value.values())
    for at, item in enumerate(found, 1):
        try:
            yield Row(at, checked(item), None)
        except Bad as bad:
            yield Row(at, None, str(item), bad)


def items(file: io.BufferedReader) -> Iterator[Row]:
    """The items of an array, each parsed by itself: a bad one spoils no other."""
    for at, (text, end) in enumerate(pieces(file), 1):
        try:
            if end == "too_long":
                raise Bad(end, f"an item of more than {LONGEST:,} characters")
            if (foreign := FOREIGN.search(text)) is not None:
                raise Bad(
                    "not_utf8", f"not UTF-8 (byte 0x{ord(foreign[0]) - 0xDC00:02x} at position {foreign.start()})"
                )
            if end == "behind":
                raise Bad("not_json", "more stands behind the end of the array; write one array, or JSON lines")
            if end == "torn":
                raise Bad("torn", "the array ends within this item")
            yield Row(at, checked(parsed(text)), text)
        except Bad as bad:
            yield Row(at, None, text, bad)


def pieces(file: io.BufferedReader) -> Iterator[tuple[str, str]]:
    """(text, fault) of each item of an array: the characters between its commas; fault: torn, too_long, behind, none.

    Bytes that are no UTF-8 become half characters, which no row may hold.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    parts: list[str] = []  # of the item in hand
    size, depth, in_text, at = 0, 0, False, 0
    stream = blocks(file, decoder)
    for block in stream:
        at, begin = max(0, at), 0
        while True:
            if in_text:
                match = IN_TEXT.search(block, at)
                if match is None:
                    break
                if match[0] == "\\":
                    at = match.end() + 1  # of the next block, perhaps
                    continue
                in_text, at = False, match.end()
                continue
            match = STRUCTURE.search(block, at)
            if match is None:
                break
            at, sign = match.end(), match[0]
            if sign == '"':
                in_text = True
            elif sign in "[{":
                depth += 1
                begin = at if depth == 1 else begin
            elif sign in "]}":
                depth -= 1
            if (sign == "," and depth == 1) or depth == 0:
                text = "".join([*parts, block[begin : match.start()]]) if size <= LONGEST else "".join(parts)[:LONGEST]
                if text.strip() or sign == ",":
                    yield text.strip(), "too_long" if size > LONGEST else ""
                parts, size, begin = [], 0, at
                if depth == 0:
                    behind = map(str.strip, itertools.chain([block[at:]], stream))
                    if rest := next(filter(None, behind), ""):
                        yield rest[:KEPT], "behind"
                    return
        at = at - len(block) if in_text and at > len(block) else 0
        if size <= LONGEST:
            parts.append(block[begin:])
        size += len(block) - begin
    if depth:  # it never closed
        yield "".join(parts).strip(), "torn"


def blocks(file: io.BufferedReader, decoder: Any) -> Iterator[str]:
    """A file's text in pieces; of a packed file that is torn, what can be unpacked."""
    try:
        while data := file.read(BLOCK):
            yield decoder.decode(data).removeprefix("\ufeff")
    except TORN:
        pass
    yield decoder.decode(b"", True)
