"""What a stage is at, told to whoever looks at the run: a small file beside the directory that it is writing.

It is there while a living command works on the stage. One that was killed leaves it behind, as it does its lock; so
the file says whose it is, by the token of the lock (``trainer/lock/run_lock.py``).
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tracestill.trainer.lock.run_lock import token_of
from tracestill.trainer.ranks.join_ranks import OWNER

WRITE_SECONDS = 1.0  # between two writes of the file, at least
PLACES = (".*.now.json", "arms/*/.*.now.json", "arms/*/score/.*.now.json", "models/.*.now.json")  # below a run


@dataclass(frozen=True)
class Now:
    """How far a stage is."""

    label: str  # stage, part and arm
    unit: str  # what is counted
    done: float
    total: float  # 0: unknown
    note: str
    seconds: float  # since it began
    rate: float | None  # units a second
    left: float | None  # seconds
    token: str = ""  # of the lock under which it is written


def now_beside(directory: Path) -> Path:
    """Where the stage that writes ``directory`` tells how far it is."""
    return directory.with_name(f".{directory.name}.now.json")


class Telling:
    """Keeps the file of one stage while it works. No failure to write it is told: it serves only those who look."""

    def __init__(self, directory: Path | None) -> None:
        self.path, self.token = None, ""
        if directory is not None:
            above = (token for folder in directory.absolute().parents if (token := token_of(folder)))
            self.path, self.token = now_beside(directory), next(above, os.environ.get(OWNER, ""))
        self.written = -WRITE_SECONDS

    @property
    def is_due(self) -> bool:
        return self.path is not None and time.monotonic() - self.written >= WRITE_SECONDS

    def tell(self, now: Now) -> None:
        """Write the file, whole."""
        if self.path is None:
            return
        self.written = time.monotonic()
        draft = self.path.with_name(f"{self.path.name}.tmp")
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_text(json.dumps({**asdict(now), "token": self.token}) + "\n", encoding="utf-8")
            draft.replace(self.path)

    def end(self) -> None:
        if self.path is not None:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
                self.path.with_name(f"{self.path.name}.tmp").unlink(missing_ok=True)
