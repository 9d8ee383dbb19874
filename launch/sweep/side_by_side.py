"""Processes side by side, each in a place of its own, and how they are stopped: asked first, ended then."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Protocol, TypeVar

from tracestill.data_pipeline.base.errors import EXIT_NO_ROOM
from tracestill.launch.run.stop_signals import forget_terminal

POLL_SECONDS = 0.2
GRACE_SECONDS = 30.0  # an arm's ranks get half of that from whoever started them
STOPPED = (3, 130, 128 + signal.SIGTERM, 128 + signal.SIGHUP, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
Place = TypeVar("Place")


class Process(Protocol):
    """What of ``subprocess.Popen`` is used."""

    def poll(self) -> int | None: ...

    def send_signal(self, number: int, /) -> None: ...


def run_all(
    names: Sequence[str],
    places: Sequence[Place],
    start: Callable[[str, Place], Process],
    *,
    fail_fast: bool = False,
    began: Callable[[str, Place], None] = lambda name, place: None,
    ended: Callable[[str, int], None] = lambda name, code: None,
    asked: Callable[[int], None] = lambda number: None,
    on_poll: Callable[[list[str]], None] = lambda running: None,
) -> tuple[dict[str, int], int]:
    """Start each name once a place is free, and wait for all: name -> exit code of those that were started, and how
    often this was asked to stop.

    A SIGTERM, SIGHUP or Ctrl-C starts no further one and is passed on to those that run (``asked`` is told), and so is
    each later one. With ``fail_fast`` the first failure asks the others to stop, and a full disk does so always. Who is
    asked a second time ends without saving: so a further failure asks nobody again, and a signal that comes after one
    counts as the first.
    """
    waiting, free = deque(names), deque(places)
    running: dict[str, tuple[Process, Place]] = {}
    codes: dict[str, int] = {}
    heard: list[int] = []
    passed, ahead = 0, False  # ahead: a failure has asked before any signal did
    with listening(heard), none_left(running):
        while waiting or running:
            while waiting and free and not heard:
                name, place = waiting.popleft(), free.popleft()
                began(name, place)
                running[name] = start(name, place), place
            if heard and not running:
                break
            time.sleep(POLL_SECONDS)
            on_poll(list(running))
            for number in heard[passed:]:
                asked(number)
                for process, _ in () if ahead else running.values():
                    process.send_signal(number)
                ahead = False
            passed = len(heard)
            for name, (process, place) in list(running.items()):
                if (code := process.poll()) is None:
                    continue
                codes[name] = code
                del running[name]
                free.append(place)
                ended(name, code)
                if code and code not in STOPPED and (fail_fast or code == EXIT_NO_ROOM) and not (heard or ahead):
                    ahead = True
                    waiting.clear()
                    for other, _ in running.values():
                        other.send_signal(signal.SIGTERM)
    return codes, len(heard)


@contextlib.contextmanager
def none_left(running: Mapping[str, tuple[Process, object]]) -> Iterator[None]:
    """Whatever ends the block, no process outlives it: asked to end, and killed after ``GRACE_SECONDS``."""
    try:
        yield
    finally:
        left = [process for process, _ in running.values()]
        deadline = time.monotonic() + GRACE_SECONDS
        for process in left:
            process.send_signal(signal.SIGTERM)
        while any(process.poll() is None for process in left):
            if time.monotonic() > deadline:
                for process in left:
                    process.send_signal(signal.SIGKILL)
            time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def listening(heard: list[int]) -> Iterator[None]:
    """Meanwhile signals that ask to stop are noted and nothing else; what is ignored stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    before = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}

    def note(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGHUP:
            forget_terminal()
            signal.signal(number, signal.SIG_IGN)  # shell and kernel send one each
        heard.append(number)

    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
