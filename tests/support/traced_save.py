"""strace on the thread that saves: it lists the calls that change the disk, or has the kernel refuse one of them."""

from __future__ import annotations

import re
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from tracestill.trainer.checkpoint import checkpoint

CALLS = "write,fsync,fdatasync,/^rename"


class Place(NamedTuple):
    """One call of a save: the ``nth`` of its name that a rank makes."""

    rank: int
    call: str
    nth: int


class Tracer:
    """Attaches strace to this process's saves of one step. The save itself is not touched."""

    def __init__(self, folder: Path) -> None:
        """strace writes into ``folder``/calls-RANK."""
        self.folder, self.plain = folder, checkpoint.write
        self.step, self.refused, self.error = 0, (-1, "", 0), ""
        self.process: subprocess.Popen[bytes] | None = None
        checkpoint.write = self.write

    def trace(self, step: int, refused: tuple[int, str, int] = (-1, "", 0), error: str = "") -> None:
        """Trace the save after ``step``; there the kernel answers the call at ``refused`` (a Place) with ``error``."""
        self.step, self.refused, self.error = step, refused, error

    def write(self, held: checkpoint.Snapshot, *arguments: Any, **more: Any) -> Path:
        if held.step == self.step:
            rank, call, nth = self.refused
            thread = threading.get_native_id()
            command = ["strace", "-y", "-o", str(log_of(self.folder, held.rank)), "-e", f"trace={CALLS}"]
            command += ["-e", f"inject={call}:error={self.error}:when={nth}"] if held.rank == rank else []
            self.process = subprocess.Popen([*command, "-p", str(thread)], stderr=subprocess.DEVNULL)
            while "TracerPid:\t0\n" in Path(f"/proc/self/task/{thread}/status").read_text():
                assert self.process.poll() is None, "strace could not attach"
                time.sleep(0.01)
        return self.plain(held, *arguments, **more)

    def wait(self) -> None:
        """Until strace has written all: it ends with the thread."""
        if self.process is not None:
            self.process.wait(60)


def log_of(folder: Path, rank: int) -> Path:
    return folder / f"calls-{rank}"


def places(folder: Path, rank: int) -> list[Place]:
    """The calls that a rank's traced save made to change the disk."""
    seen: Counter[str] = Counter()
    found = []
    for name in re.findall(r"^(\w+)\(.*checkpoints", log_of(folder, rank).read_text(), re.MULTILINE):
        seen[name] += 1
        found.append(Place(rank, name, seen[name]))
    return found


def refusals(folder: Path, rank: int) -> int:
    return log_of(folder, rank).read_text().count("(INJECTED)")
