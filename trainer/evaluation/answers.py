"""What a student wrote, kept as it comes: lines in files beside the stage that asked, one file a process that asks.
Files are numbered, and where two speak of one text the later one counts.

A stage is written wholly or not at all; these lines stay. So an evaluation that was killed asks only for what is
missing, and so does one that measures more than before. A text has a name, by what decides it (see ``asking.name_of``),
and what else decides all of them stands in ``WHO``: another student begins an empty folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from tracestill.data_pipeline.base.places import claim, remove
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import same, write_json

WHO = "who.json"
SYNC_SECONDS = 5.0  # between two times that lines are forced to disk, about


def answers_beside(directory: Path) -> Path:
    """Where the lines of the stage in ``directory`` lie."""
    return directory.with_name(f".{directory.name}.answers")


def asked_beside(directory: Path) -> Path:
    """Where several processes that write for the stage in ``directory`` leave word to each other (``ranks``). It holds
    nothing that outlives them."""
    return directory.with_name(f".{directory.name}.asked")


def forget_asked(directory: Path) -> None:
    """Remove what such processes left when they were killed."""
    shutil.rmtree(asked_beside(directory), ignore_errors=True)


class Answers:
    """Name of a text -> what was written, as JSON. Lines of other processes come by ``look``."""

    def __init__(self, directory: Path | None, who: Mapping[str, Any] | None = None, *, begin: bool = True) -> None:
        """``directory``: None keeps them in memory alone. ``who`` (see ``stage.identity``) decides whether what lies
        there counts; if not, it is deleted. Among several processes one opens it with ``begin`` first."""
        self.directory, self.found = directory, dict[str, Any]()
        self.read_to: dict[Path, int] = {}  # bytes of each file
        self.file: IO[bytes] | None = None
        self.synced = time.monotonic()
        if directory is not None and begin:  # others may come before what does not count is deleted: they do not look
            self.begin(directory, dict(who or {}))
            self.look()

    def begin(self, directory: Path, who: dict[str, Any]) -> None:
        claim(directory)
        try:
            held = json.loads((directory / WHO).read_text(encoding="utf-8"))
            mine = same(held, who)
        except (OSError, ValueError, AttributeError):
            mine = False
        if directory.exists() and not mine:
            remove(directory)
        with needs_room(directory, "what was written before is kept"):
            directory.mkdir(parents=True, exist_ok=True)
            if not mine:
                write_json(directory / WHO, who)

    def look(self) -> None:
        """Read what has been written since; a line that is not whole is not there."""
        if self.directory is None:
            return
        for path in sorted(self.directory.glob("*.jsonl")):
            with path.open("rb") as file:
                file.seek(self.read_to.get(path, 0))
                data = file.read()
            whole = data[: data.rfind(b"\n") + 1]
            self.read_to[path] = self.read_to.get(path, 0) + len(whole)
            for line in whole.splitlines():
                with contextlib.suppress(ValueError, TypeError):
                    self.found.update(json.loads(line))

    def __contains__(self, name: str) -> bool:
        return name in self.found

    def __getitem__(self, name: str) -> Any:
        return self.found[name]

    def get(self, name: str, default: Any) -> Any:
        return self.found.get(name, default)

    def keep(self, name: str, said: Any) -> None:
        """Raises NoRoomError if the disk is full."""
        self.found[name] = said
        if self.directory is None:
            return
        line = json.dumps({name: said}, separators=(",", ":")).encode() + b"\n"
        with needs_room(self.directory, "what was written before is kept"):
            if self.file is None:
                self.file = (self.directory / f"{self.number():06d}-{uuid.uuid4().hex}.jsonl").open("ab")
            self.file.write(line)
            self.file.flush()  # it outlives this process
            if time.monotonic() - self.synced > SYNC_SECONDS:
                self.sync()

    def number(self) -> int:
        """One more than that of any file so far."""
        assert self.directory is not None
        numbers = [path.name.partition("-")[0] for path in self.directory.glob("*.jsonl")]
        return max((int(each) for each in numbers if each.isdecimal()), default=0) + 1

    def sync(self) -> None:
        if self.file is not None:
            os.fsync(self.file.fileno())
            self.synced = time.monotonic()

    def close(self) -> None:
        if self.file is not None:
            self.sync()
            self.file.close()
            self.file = None

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
