"""Files of a run that somebody else is writing, read while they grow: only what is new, and never written to."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tracestill.trainer.metrics.log import Line, parsed

BLOCK = 1 << 20  # bytes read at a time

Mark = tuple[int, int, int]  # inode, size, time


class Grown:
    """A log: its whole lines, each once. A line that is not whole yet is waited for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.forget()

    def forget(self) -> None:
        self.read, self.inode, self.torn = 0, 0, b""

    def new(self) -> tuple[list[Line], bool]:
        """The lines since the last call, and whether they are of a log that has begun anew, or has gone: a training
        that goes on replaces its log by the lines up to its checkpoint."""
        found: list[Line] = []
        try:
            with self.path.open("rb") as handle:
                about = os.fstat(handle.fileno())
                anew = about.st_ino != self.inode or about.st_size < self.read
                if anew:
                    self.forget()
                    self.inode = about.st_ino
                handle.seek(self.read)
                while block := handle.read(BLOCK):
                    self.read += len(block)
                    whole, newline, rest = block.rpartition(b"\n")
                    found += parsed(self.torn + whole) if newline else []
                    self.torn = rest if newline else self.torn + rest
        except OSError:  # not there yet, or deleted since
            anew = self.inode != 0
            self.forget()
        return found, anew


class Kept:
    """A small file of JSON, an object, that is replaced as a whole; read again when it has changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mark: Mark | None = None
        self.value: dict[str, Any] | None = None

    def look(self) -> dict[str, Any] | None:
        """What it holds now; None if it is not there. One that is caught half-written, or damaged, says what it said
        before."""
        mark = mark_of(self.path)
        if mark == self.mark:
            return self.value
        try:
            value = None if mark is None else json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return self.value
        if value is not None and not isinstance(value, dict):
            return self.value
        self.mark, self.value = mark, value
        return self.value


def mark_of(path: Path) -> Mark | None:
    """Tells whether a file has been written since; None if it is not there."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_ino, about.st_size, about.st_mtime_ns
