"""A function's text in a forked child under limits, for what a stranger's program does inside of a library.

The child has all that is loaded here, so it costs milliseconds; it may compute in Python, and nothing else: other
threads are not there, nor devices.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from tracestill.data_pipeline.documents.template_process import Limits
from tracestill.data_pipeline.documents.template_worker import MIB, wind

PARALLEL = "TOKENIZERS_PARALLELISM"  # if it is set, tokenizers does not warn of a fork in which it has no part


class BeyondLimits(Exception):
    """It computes for too long, needs too much memory, or does not end."""


class Raised(Exception):
    """What the function raised in the child, in words."""


def texts_of(work: Callable[[], list[str]], limits: Limits, wall_seconds: float) -> list[str]:
    """What ``work`` returns. Raises BeyondLimits, or Raised."""
    reader, writer = os.pipe()
    with no_warning():
        child = os.fork()
    if child == 0:
        os.close(reader)
        answer(work, limits, writer)
    os.close(writer)
    try:
        said = read(reader, wall_seconds, most=8 * limits.characters)
    finally:
        os.close(reader)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if said is None:
        if code == -signal.SIGXCPU:
            raise BeyondLimits(f"computes for more than {limits.cpu_seconds} s of the CPU")
        raise BeyondLimits(f"gives no answer within {wall_seconds:g} s and {limits.memory_mib:,} MiB")
    if "raised" in said:
        raise Raised(said["raised"])
    return said["texts"]


def answer(work: Callable[[], list[str]], limits: Limits, writer: int) -> NoReturn:
    """In the child: work within limits, write the answer, and end without the interpreter's shutdown."""
    try:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        most = pages * resource.getpagesize() + limits.memory_mib * MIB  # besides what is there already
        for what, value in (
            (resource.RLIMIT_AS, most),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_NOFILE, 0),  # what is open stays so; no file, and no connection, can be opened
        ):
            with contextlib.suppress(ValueError):  # it is lower already
                resource.setrlimit(what, (value, value))
        wind(limits.cpu_seconds)
        try:
            said: dict[str, Any] = {"texts": work()}
        except Exception as error:
            said = {"raised": " ".join(f"{type(error).__name__}: {error}"[:300].split())}
        left = memoryview(json.dumps(said).encode() + b"\n")
        while left:
            left = left[os.write(writer, left) :]
    finally:
        os._exit(0)


def read(reader: int, seconds: float, most: int) -> dict[str, Any] | None:
    """The child's answer; None if it does not come whole, or is longer than ``most`` bytes."""
    poll, end = select.poll(), time.monotonic() + seconds
    poll.register(reader, select.POLLIN)
    found = bytearray()
    while not found.endswith(b"\n"):
        if len(found) > most or not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return None
        part = os.read(reader, 1 << 20)
        if not part:
            return None
        found += part
    return json.loads(found)


@contextlib.contextmanager
def no_warning() -> Iterator[None]:
    """Meanwhile a fork is nothing that tokenizers warns of."""
    sys.stdout.flush()
    sys.stderr.flush()
    mine = PARALLEL not in os.environ
    os.environ.setdefault(PARALLEL, "true")
    try:
        yield
    finally:
        if mine:
            del os.environ[PARALLEL]
