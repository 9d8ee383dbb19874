"""What the ranks of one node say of themselves, in shared memory: alive, in which phase, at which step.

One row of integers a rank, in a file that all ranks of the node map. A rank writes only its own row, and eight
aligned bytes are written at once. Clocks of two processes are never compared: what counts is that a number changes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.trainer.ranks.phases import PHASES, Phase

PID, BORN, BEATS, TURNS, PHASE, STEP, LIMIT, ENDED = range(8)
PREFIX = "tracestill-watch-"


@dataclass(frozen=True)
class Row:
    """What one rank said last."""

    rank: int
    pid: int  # 0: it has not said anything yet
    born: int
    beats: int  # grows every second, while the process lives
    turns: int  # grows with every phase that it enters
    phase: Phase
    step: int  # optimizer steps done
    limit: int  # seconds that this phase may last
    ended: bool  # it left in an orderly way


class Board:
    """The rows of this node's ranks, and the first alarm that any of them raised."""

    def __init__(self, token: str, rank: int, neighbours: Sequence[int]) -> None:
        """``token`` is the same for all ranks of a training and new for each; ``neighbours`` are this node's ranks."""
        self.rank, self.neighbours = rank, list(neighbours)
        self.folder = shared_memory() / f"{prefix()}{token}"
        self.folder.mkdir(exist_ok=True, mode=0o700)
        path, size = self.folder / "ranks", len(self.neighbours) * 8 * 8
        with path.open("ab"):
            os.truncate(path, size)  # whoever comes first: the others find this size
        self.rows = np.memmap(path, dtype=np.int64, mode="r+", shape=(len(self.neighbours), 8))
        self.mine = self.rows[self.neighbours.index(rank)]
        self.mine[BORN] = born(os.getpid()) or 0
        self.mine[PID] = os.getpid()

    def enter(self, phase: Phase, step: int, limit: float) -> None:
        self.mine[PHASE], self.mine[STEP], self.mine[LIMIT] = PHASES.index(phase), step, round(limit)
        self.mine[TURNS] += 1

    def beat(self) -> None:
        self.mine[BEATS] += 1

    def end(self) -> None:
        self.mine[ENDED] = 1

    def read(self) -> list[Row]:
        found = []
        for rank, values in zip(self.neighbours, self.rows.tolist(), strict=True):
            pid, born, beats, turns, phase, step, limit, ended = values
            found.append(Row(rank, pid, born, beats, turns, PHASES[phase], step, limit, bool(ended)))
        return found

    @property
    def alarm(self) -> dict[str, Any] | None:
        """The first alarm of this node, or None."""
        try:
            return json.loads((self.folder / "alarm").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def raise_alarm(self, alarm: dict[str, Any]) -> bool:
        """Whether it is the first one on this node; then all its ranks see it."""
        draft = self.folder / uuid.uuid4().hex
        draft.write_text(json.dumps(alarm), encoding="utf-8")
        try:
            os.link(draft, self.folder / "alarm")
        except FileExistsError:
            return False
        return True

    def remove(self) -> None:
        """Delete the file system's names; what is mapped stays until its process ends."""
        shutil.rmtree(self.folder, ignore_errors=True)


def shared_memory() -> Path:
    """The memory file system, or the folder for temporary files where there is none."""
    memory = Path("/dev/shm")
    return memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def prefix() -> str:
    """How names of this node's boards begin. A container may share the memory of another, but not its process ids."""
    return f"{PREFIX}{node_identity().hex()[:12]}-"


def sweep() -> None:
    """Delete boards of this user and node whose ranks are all gone: those of trainings that were killed."""
    for folder in shared_memory().glob(prefix() + "*"):
        with contextlib.suppress(OSError, ValueError):
            rows = np.fromfile(folder / "ranks", dtype=np.int64).reshape(-1, 8)
            old = time.time() - folder.stat().st_mtime > 600  # a young one may have no rows yet
            if old and folder.stat().st_uid == os.getuid() and not any(lives(int(r[PID]), int(r[BORN])) for r in rows):
                shutil.rmtree(folder, ignore_errors=True)


def born(pid: int) -> int | None:
    """When a process began, in the kernel's ticks, or None if there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def lives(pid: int, since: int) -> bool | None:
    """Whether the process ``pid`` that began at ``since`` is still there; None where a process of this number is hidden
    from this user (``/proc`` mounted with hidepid)."""
    if pid <= 0:
        return False
    now = born(pid)
    return None if now is None and is_hidden(pid) else now == since


def is_hidden(pid: int) -> bool:
    """Whether there is a process of this number of which /proc does not tell this user."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        pass
    return not os.access(f"/proc/{pid}/stat", os.R_OK)


def node_identity() -> bytes:
    """(32 bytes) equal for two processes exactly if they share this node's memory, process ids and network."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii"))
        parts += [os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "ipc", "mnt")]
    return hashlib.sha256("\n".join(parts).encode()).digest()
