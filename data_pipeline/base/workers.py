"""A function over many items in processes of this host, in order, some at a time.

Processes are spawned: they inherit no threads and import only what the function needs. They end with this one, however
it ends, and leave Ctrl-C to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from pathlib import Path
from typing import TypeVar

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError

AHEAD = 4  # items of each process that are out at a time
Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDied(InputError):
    """A process that worked for this one is gone."""

    exit_code = 4  # as of a rank that failed


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], workers: int, field: str) -> Iterator[Result]:
    """What ``function``, of a module, makes of each item: here with one worker, else in so many processes.

    Raises what it raises; and WorkerDied, naming the recipe's ``field`` that says how many there are, if one dies.
    """
    if workers == 1:
        yield from map(function, items)
        return
    pool: Executor = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=begin, initargs=(own_modules.folder(),)
    )
    out: deque[Future[Result]] = deque()
    try:
        for item in items:
            out.append(pool.submit(function, item))
            if len(out) >= AHEAD * workers:
                yield out.popleft().result()
        while out:
            yield out.popleft().result()
    except BrokenProcessPool as error:
        raise WorkerDied(
            f"one of {workers} worker processes died: killed, or out of memory; nothing finished before is lost; "
            f"run the same command again, if memory is short with a smaller {field}"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def begin(folder: Path | None) -> None:
    """What a new process does first. ``folder``: where the recipe's own modules lie."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    own_modules.search(folder)
    threading.Thread(target=end_with_parent, name="end with parent", daemon=True).start()


def end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
