"""``log.jsonl`` of a train directory, written and read: one line of JSON for each logged step or event. No torch."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG = "log.jsonl"
LAST_BYTES = 1 << 16  # of a log: its last line lies within them
Line = dict[str, Any]


class Log:
    """Written by rank 0, and flushed at once."""

    def __init__(self, path: Path, *, resume_at: int, write: bool, also: Callable[[Line], None] | None = None) -> None:
        """On resuming, lines of steps past the checkpoint are cut: those steps will come again.

        ``also`` sees every line that is added.
        """
        self.write, self.also = write, also
        if not write:
            return
        kept = [line for line in read_log(path) if line.get("step", 0) <= resume_at]
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        temporary.replace(path)
        self.handle = path.open("a", encoding="utf-8")

    def add(self, **line: Any) -> None:
        if self.write:
            line = finite(line)
            self.handle.write(json.dumps(line, allow_nan=False) + "\n")
            self.handle.flush()
            if self.also is not None:
                self.also(line)


def finite(value: Any) -> Any:
    """The value with null for every number that JSON cannot hold: NaN and the infinities."""
    if isinstance(value, dict):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_log(path: Path) -> list[Line]:
    """All lines; none of a log that is not there."""
    return parsed(path.read_bytes()) if path.exists() else []


def parsed(data: bytes) -> list[Line]:
    """The lines that are whole: one torn by a crash is left out."""
    found = []
    for text in data.splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            found.append(line)
    return found


def is_of_steps(line: Line) -> bool:
    """Whether a line holds the numbers of steps; else it tells of an event."""
    return "event" not in line and "loss" in line


def last_step(path: Path) -> int:
    """The step of the last line; 0 without any."""
    try:
        with path.open("rb") as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = parsed(handle.read())
    except OSError:
        return 0
    return int(lines[-1].get("step", 0)) if lines else 0


class Tail:
    """Reads a log while it is written."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0  # bytes

    def new(self) -> list[Line]:
        """Whole lines since the last call."""
        with self.path.open("rb") as handle:
            handle.seek(self.read)
            data = handle.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        return parsed(whole)
