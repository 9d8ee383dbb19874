"""Keys pressed in a terminal, heard one by one while a picture stands there."""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from collections.abc import Callable, Iterator

try:
    import termios
    import tty
except ImportError:  # pragma: no cover  # no such terminals on this system
    termios = None  # type: ignore[assignment]

Hear = Callable[[float], str]  # waits so many seconds at most; what was pressed, or nothing
ARROWS = {"\x1b[C": "next", "\x1b[D": "previous", "\x1b[B": "next", "\x1b[A": "previous", "\x1b[Z": "previous"}
NAMES = {"\t": "next", "n": "next", "p": "previous", "q": "end", **ARROWS}


@contextlib.contextmanager
def keys() -> Iterator[Hear]:
    """Meanwhile the terminal passes each key on at once, and shows none; Ctrl-C acts as ever. Without a terminal, and
    for a job in the background, only time passes."""
    descriptor = terminal()
    if descriptor is None:
        yield wait
        return
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor, termios.TCSANOW)
    try:
        yield lambda seconds: hear(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


def terminal() -> int | None:
    """The descriptor of the terminal whose keys reach us."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        descriptor = sys.stdin.fileno()
        if termios is not None and os.isatty(descriptor) and os.tcgetpgrp(descriptor) == os.getpgrp():
            return descriptor
    return None


def wait(seconds: float) -> str:
    time.sleep(seconds)
    return ""


def hear(descriptor: int, seconds: float) -> str:
    """What a key means: ``next``, ``previous``, ``end``, or a digit; nothing for any other."""
    ready, _, _ = select.select([descriptor], [], [], seconds)
    if not ready:
        return ""
    pressed = os.read(descriptor, 16).decode(errors="replace")
    if not pressed:  # the terminal has gone
        return "end"
    return pressed if pressed.isdecimal() and len(pressed) == 1 else NAMES.get(pressed, "")
