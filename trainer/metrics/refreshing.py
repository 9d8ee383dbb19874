"""How far the writing of a student's own texts is, told while it goes on. Imports no torch.

Rank 0 writes ``refreshing.json`` into the train directory while a refresh is made, of all ranks' texts; whoever looks
at the run reads there that training does not stand still. It goes when the refresh is there.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

REFRESHING = "refreshing.json"
Doing = Literal["writes", "teacher reads"]


@dataclass(frozen=True)
class Refreshing:
    """A refresh that is being made."""

    refresh: int
    doing: Doing
    done: int  # units of all ranks
    total: int
    unit: str

    def __str__(self) -> str:
        return f"refresh {self.refresh}: {self.doing} {self.done:,}/{self.total:,} {self.unit}"


def tell_refreshing(directory: Path, found: Refreshing | None) -> None:
    """None: the refresh is made. No failure to write is told: the file serves only those who look."""
    path = directory / REFRESHING
    with contextlib.suppress(OSError):
        if found is None:
            path.unlink(missing_ok=True)
            return
        draft = path.with_name(f".{path.name}.tmp")
        draft.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
        draft.replace(path)


def read_refreshing(directory: Path) -> Refreshing | None:
    """The refresh that is being made in a train directory; None if none is, or was when its ranks were killed."""
    try:
        return Refreshing(**json.loads((directory / REFRESHING).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
