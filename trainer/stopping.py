"""Stopping on request, so that training can go on later: SIGTERM, Ctrl-C, the recipe's time limit, or a file.

The launcher passes SIGTERM on to some ranks only, and then waits no longer than 30 seconds; so a parent that starts
training asks for the end by writing ``stop`` into the train directory. Any rank's request reaches all of them
through the all-reduce of the step (see ``Engine.step``), and all save after the same step.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType, TracebackType

from tracestill.data_pipeline.stage import write_json

EXIT_STOPPED = 3  # of every rank, and of `tracestill train` and `tracestill run`
REQUEST, MARKER = "stop", "stopped.json"
CTRL_C = "Ctrl-C"
ECHO_SECONDS = 1.0  # a launcher such as torchrun passes on to its ranks the SIGINT that the terminal has sent them too


class StopRequest:
    """Collects requests while its ``with`` block lasts; outside of it signals end the process as always.

    A second Ctrl-C, later than an echo of the first, ends the process at once.
    """

    def __init__(self, directory: Path, *, seconds: float | None, started: float, rank: int) -> None:
        """``seconds`` after ``started`` (of ``time.perf_counter``) the time is up; None: never."""
        self.directory, self.rank = directory, rank
        self.deadline = None if seconds is None else started + seconds
        self.signalled = ""
        self.interrupted: float | None = None  # since when

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self.before = [(signal.SIGTERM, signal.signal(signal.SIGTERM, self.on_signal))]
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background jobs ignore it
                self.before.append((signal.SIGINT, signal.signal(signal.SIGINT, self.on_interrupt)))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, before in self.before:
                signal.signal(number, before)

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        self.signalled = self.signalled or "SIGTERM"

    def on_interrupt(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.interrupted is not None and now - self.interrupted > ECHO_SECONDS:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        self.interrupted = self.interrupted or now
        self.signalled = self.signalled or CTRL_C

    def reason(self) -> str:
        """Why this rank asks for the end; empty while it does not."""
        if self.signalled:
            return self.signalled
        if self.deadline is not None and time.perf_counter() >= self.deadline:
            return "train.stop_after"
        if self.rank == 0 and (self.directory / REQUEST).exists():
            return (self.directory / REQUEST).read_text(encoding="utf-8").strip() or "request"
        return ""

    def mark(self, step: int, steps: int) -> None:
        """Leave word that training stopped after ``step`` of ``steps``, all of it saved. For rank 0 to call."""
        reason = self.reason() or "SIGTERM to another rank"
        write_json(self.directory / MARKER, {"step": step, "steps": steps, "reason": reason})


def request(directory: Path, reason: str) -> None:
    """Ask the training in ``directory``, or the one that is about to start there, to stop."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / REQUEST).write_text(reason, encoding="utf-8")


def clear(directory: Path, *names: str) -> None:
    """Delete what an earlier training, or the one that waited for it, left (REQUEST, MARKER)."""
    for name in names:
        (directory / name).unlink(missing_ok=True)
