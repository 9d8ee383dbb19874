"""Who does the work of a stage: this process, processes of this host, or ranks that mpirun started on several hosts.

All are ``concurrent.futures.Executor``; results come in the order of the tasks, with a bounded number of tasks on their
way, so that neither what comes out nor the memory that it takes depends on who works.

Processes of this host are spawned: they import what the task needs and not what started the program, inherit no thread
and no lock, and end when this process does, however it ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")
AHEAD = 4  # tasks on their way for each worker
PARALLEL = "TOKENIZERS_PARALLELISM"  # whether the tokenizers library starts threads: it asks at each call


class WorkerDied(InputError):
    """A process that worked for this one is gone."""

    exit_code = 4  # as of a rank that failed


@dataclass(frozen=True)
class Workers:
    pool: Executor
    count: int
    local: bool = True  # processes of this host, or this process


_given: ContextVar[Workers | None] = ContextVar("given", default=None)


@contextlib.contextmanager
def using(pool: Executor, count: int) -> Iterator[None]:
    """Meanwhile ``hired`` gives this pool of so many workers, which may be on other hosts."""
    token = _given.set(Workers(pool, count, local=False))
    try:
        yield
    finally:
        _given.reset(token)


@contextlib.contextmanager
def hired(count: int) -> Iterator[Workers]:
    """The workers that there are (see ``using``), or ``count`` on this host; one is this process itself.

    They are gone at the end; if the block raises, at once, whatever they do.
    """
    given = _given.get()
    if given is not None or count == 1:
        yield given or Workers(Here(), 1)
        return
    with processes(count) as pool:
        yield Workers(pool, count)


@contextlib.contextmanager
def processes(count: int) -> Iterator[Executor]:
    others = set(multiprocessing.active_children())
    pool = Processes(
        count, mp_context=multiprocessing.get_context("spawn"), initializer=begin, initargs=(own_modules.folder(),)
    )
    try:
        yield pool
    except BaseException:
        for child in set(multiprocessing.active_children()) - others:
            child.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Here(Executor):
    """Does a task when it is given."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(function(*args, **more))
        return future


class Processes(ProcessPoolExecutor):
    """Processes that know nothing of what started this one, and leave Ctrl-C to it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **more: Any) -> Future[Any]:
        main = sys.modules["__main__"]
        # a process starts here, if one is missing. It would import the program that runs, and a script without
        # a guard would begin anew; and what is blocked here stays blocked there
        sys.modules["__main__"] = ModuleType("__main__")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            return super().submit(function, *args, **more)
        finally:
            sys.modules["__main__"] = main
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(folder: Path | None) -> None:
    """What a process of a pool does first. ``folder``: where the recipe's own modules lie."""
    own_modules.search(folder)
    os.environ[PARALLEL] = "false"  # the pool is what uses the cores
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        wait([parent.sentinel])  # which is ready as soon as that process has ended, killed or not
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


def in_order(workers: Workers, function: Callable[[Task], Result], tasks: Iterable[Task]) -> Iterator[Result]:
    """``function`` of each task, in their order, ``AHEAD`` tasks of each worker on their way.

    Raises what a task raises, and ``Lost`` with the tasks that were on their way if a worker died.
    """
    waiting: deque[tuple[Task, Future[Result]]] = deque()
    most = 1 if workers.count == 1 and workers.local else AHEAD * workers.count
    try:
        for task in tasks:
            while len(waiting) >= most:
                yield waiting[0][1].result()
                waiting.popleft()
            waiting.append((task, workers.pool.submit(function, task)))
        while waiting:
            yield waiting[0][1].result()
            waiting.popleft()
    except BrokenExecutor as error:
        raise Lost([task for task, _ in waiting]) from error
    finally:
        for _, future in waiting:
            future.cancel()


def shared_out(function: Callable[[Task], Result], tasks: Iterable[Task], count: int, field: str) -> Iterator[Result]:
    """``function`` of each task, in their order: here if ``count`` is 1, else in so many processes of this host.

    Raises what a task raises; and WorkerDied, naming the recipe's ``field`` that says how many there are, if one dies.
    """
    if count == 1:
        yield from map(function, tasks)
        return
    with processes(count) as pool:
        try:
            yield from in_order(Workers(pool, count), function, tasks)
        except Lost as lost:
            raise WorkerDied(
                f"one of {count} worker processes died: killed, or out of memory; nothing finished before is lost; "
                f"run the same command again, if memory is short with a smaller {field}"
            ) from lost


class Lost(Exception):
    """A worker died, and with it the pool."""

    def __init__(self, tasks: list[Any]) -> None:
        super().__init__(tasks)
        self.tasks = tasks


def who_kills(function: Callable[[Task], Any], tasks: Iterable[Task]) -> int | None:
    """The place of the first task that ends the process that does it, tried one after the other in another one."""
    with processes(1) as pool:
        for at, task in enumerate(tasks):
            if isinstance(pool.submit(function, task).exception(), BrokenExecutor):
                return at
    return None
