"""Stopping on request, so that training can go on later: SIGTERM, Ctrl-C, the recipe's time limit, or a file.

The launcher passes SIGTERM on to some ranks only, and then waits no longer than 30 seconds; so a parent that starts
training asks for the end by writing ``stop`` into the train directory. Any rank's request reaches all of them
through the all-reduce of the step (see ``Engine.step``), and all save after the same step.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NoReturn

from tracestill.data_pipeline.base.stage import write_json
from tracestill.data_pipeline.models import own_code
from tracestill.trainer.faults.failure import EXIT_FAILED

EXIT_STOPPED = 3  # of every rank, and of `tracestill train` and `tracestill run`
REQUEST, MARKER = "stop", "stopped.json"
CTRL_C = "Ctrl-C"
EXIT_INTERRUPTED = 130
ECHO_SECONDS = 1.0  # a launcher such as torchrun passes on to its ranks the SIGINT that the terminal has sent them too


class StopRequest:
    """Collects requests from ``begin`` to the end of its ``with`` block; outside of that signals act as before.

    A second Ctrl-C, later than an echo of the first, ends the process at once.
    """

    def __init__(
        self,
        directory: Path,
        *,
        seconds: float | None,
        started: float,
        rank: int,
        hand_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """``seconds`` after ``started`` (of ``time.perf_counter``) the time is up; None: never. ``hand_over`` is asked
        once, by ``begin``, whether a SIGTERM has come to the one who listened before, and has not ended the process
        yet: then it counts here."""
        self.hand_over = hand_over
        self.directory, self.rank = directory, rank
        self.deadline = None if seconds is None else started + seconds
        self.signalled = ""
        self.interrupted: float | None = None  # since when
        self.before: list[tuple[int, Any]] = []  # signals, and what they did

    def __enter__(self) -> StopRequest:
        return self

    def begin(self) -> None:
        """From now on steps are done, which a signal is to save."""
        if threading.current_thread() is threading.main_thread():
            self.before.append((signal.SIGTERM, signal.signal(signal.SIGTERM, self.on_signal)))
            if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # a shell's background jobs ignore it
                self.before.append((signal.SIGINT, signal.signal(signal.SIGINT, self.on_interrupt)))
        if self.hand_over():
            self.signalled = self.signalled or "SIGTERM"

    def __exit__(self, raised: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
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
        late = self.deadline is not None and time.perf_counter() >= self.deadline
        return self.wish() or ("train.stop_after" if late else "")

    def wish(self) -> str:
        """The same, whatever the time is."""
        if self.signalled:
            return self.signalled
        if self.rank == 0 and (self.directory / REQUEST).exists():
            return (self.directory / REQUEST).read_text(encoding="utf-8").strip() or "request"
        return ""

    def mark(self, step: int, steps: int) -> None:
        """Leave word that training stopped after ``step`` of ``steps``, all of it saved. For rank 0 to call."""
        reason = self.reason() or "SIGTERM to another rank"
        write_json(self.directory / MARKER, {"step": step, "steps": steps, "reason": reason})


@contextlib.contextmanager
def ends_at_once() -> Iterator[None]:
    """Meanwhile there is nothing to save: SIGTERM ends this process at once with EXIT_STOPPED, and Ctrl-C with 130.

    For the time in which ranks wait for each other inside of torch, where Python does not hear a signal before the wait
    is over: a thread hears it. It also ends a rank whose launcher, DeepSpeed's, has gone.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [n for n in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(n) is not signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, frame: None) for number in numbers}
    heard, told = os.pipe()
    os.set_blocking(told, False)
    told_before = signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    thread = threading.Thread(target=hear, args=(heard,), name="waits for a signal", daemon=True)
    thread.start()
    try:
        yield
    finally:
        for number, handler in before.items():  # before the descriptor: a signal in between is heard twice, not never
            signal.signal(number, handler)
        signal.set_wakeup_fd(told_before)
        os.close(told)
        thread.join()
        os.close(heard)


def hear(descriptor: int) -> None:
    """End this process on the first signal whose number can be read; return when nobody can write one any more."""
    parent = os.getppid() if "LOCAL_SIZE" in os.environ else None  # DeepSpeed's launcher sets it
    poll = select.poll()  # ``select`` takes no descriptor from 1,024 on
    poll.register(descriptor, select.POLLIN)
    while True:
        number = os.read(descriptor, 1) if poll.poll(1000) else None
        if number == b"":
            return
        if number == bytes([signal.SIGTERM]):
            leave_unmet("stopped (SIGTERM)", EXIT_STOPPED)
        if number == bytes([signal.SIGINT]):
            leave_unmet("interrupted", EXIT_INTERRUPTED)
        if parent not in (None, os.getppid()):
            leave_unmet("failed: the launcher has ended", EXIT_FAILED)


def leave_unmet(why: str, code: int) -> NoReturn:
    with contextlib.suppress(OSError):
        print(f"{why} before the ranks had met: no step was taken, nothing is lost", file=sys.stderr, flush=True)
    own_code.leave(code)


def request(directory: Path, reason: str) -> None:
    """Ask the training in ``directory``, or the one that is about to start there, to stop."""
    directory.mkdir(parents=True, exist_ok=True)
    try:
        (directory / REQUEST).write_text(reason, encoding="utf-8")
    except OSError:
        if not (directory / REQUEST).exists():  # an empty one, on a full disk, asks as well
            raise


def clear(directory: Path, *names: str) -> None:
    """Delete what an earlier training, or the one that waited for it, left (REQUEST, MARKER)."""
    for name in names:
        (directory / name).unlink(missing_ok=True)
