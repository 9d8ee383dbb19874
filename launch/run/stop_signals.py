"""Signals while ranks train: the first one asks them to save and stop, the second ends them; and what is saved then."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console

from tracestill.launch.run.restarts import beginning, newest
from tracestill.trainer.faults import stopping
from tracestill.trainer.metrics.headway import read_headway, until_saved
from tracestill.trainer.metrics.log import LOG, last_step
from tracestill.trainer.metrics.refreshing import read_refreshing

DOES_IT = {signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP (the terminal has gone)"}
AGAIN = "press Ctrl-C again to stop now, without saving"


class StoppedEarly(KeyboardInterrupt):
    """SIGTERM, or SIGHUP, while there is nothing to save: before the first step, or to a rank after the last one too.
    As Ctrl-C it passes by whatever catches errors; says which it was."""


@contextlib.contextmanager
def stop_on_signals(directory: Path, console: Console) -> Iterator[None]:
    """Meanwhile the first SIGTERM, SIGHUP or Ctrl-C asks the ranks to save and stop, and the second one acts as before,
    except that of several SIGHUP all but the first do nothing.

    Before the first step of an attempt there is nothing to save: then Ctrl-C acts as before at once, and the others
    raise StoppedEarly. Earlier requests and their outcome are forgotten.
    """
    stopping.clear(directory, stopping.REQUEST, stopping.MARKER)
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    # what is ignored stays so: nohup says so of SIGHUP, and a shell of the SIGINT of its background jobs
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_signal(number: int, frame: FrameType | None) -> None:
        restore(ignored=signal.SIGHUP if number == signal.SIGHUP else None)  # shell and kernel send one each
        if number == signal.SIGHUP:
            forget_terminal()
        if read_headway(directory) is None:
            raise StoppedEarly(DOES_IT[signal.Signals(number)])
        stopping.request(directory, DOES_IT[signal.Signals(number)])
        say(f"{DOES_IT[signal.Signals(number)]}: training saves after this step and stops; {expected(directory)}")

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        restore()
        if read_headway(directory) is None:
            raise KeyboardInterrupt
        stopping.request(directory, stopping.CTRL_C)
        say(f"{stopping.CTRL_C}: training saves after this step and stops; {expected(directory)}; {AGAIN}")

    def restore(ignored: int | None = None) -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if number == ignored else handler)

    for number in before:
        signal.signal(number, on_interrupt if number == signal.SIGINT else on_signal)
    try:
        yield
    finally:
        restore()
        stopping.clear(directory, stopping.REQUEST)


def forget_terminal() -> None:
    """Write into nothing from now on: to write to a terminal that has gone is an error."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode):
                os.dup2(nothing, descriptor)
    os.close(nothing)


def expected(directory: Path) -> str:
    """How long it takes until all is saved."""
    now = read_headway(directory)
    if now is None:
        return "it has not begun its first step"
    if now.step >= now.steps:
        return "its last step is done and saved, and the student is being exported"
    if (refreshing := read_refreshing(directory)) is not None:
        return f"{refreshing}: left unfinished; who goes on begins it anew"
    return f"step {now.step + 1} of {now.steps} is under way: {until_saved(now)}"


def what_is_saved(directory: Path, *, resumes: bool) -> str:
    """What the ranks of a train directory left, now that they have ended, and what the same command does with it.

    ``resumes``: whether it goes on from the newest checkpoint.
    """
    now, at = read_headway(directory), newest(directory) if resumes else 0
    if now is None and not at:
        return "no step of the training was done; the same command begins it anew"
    # progress is written once a second at most, and steps may be short
    lost = max(0, max(now.step, last_step(directory / LOG)) - at) if now else 0
    more = "" if now is None or now.step >= now.steps else " and what was done of the next"
    of = f" of {now.steps}" if now else ""
    if not at:
        return f"nothing is saved of {counted(lost)} done{more}: the same command begins the training anew"
    again = f" and does {counted(lost)}{more} again" if lost else ""
    return f"{beginning(directory)}{of} is saved; the same command goes on from there{again}"


def counted(steps: int) -> str:
    return f"{steps} step{'' if steps == 1 else 's'}"
