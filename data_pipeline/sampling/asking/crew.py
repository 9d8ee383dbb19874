"""Teachers at work at the same time, each in a thread of its own; what they say comes out in one place."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.asking.desk import Answer, Desk, Ended, Note, Stopped, fail
from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.teachers import Ask

AT_ONCE = 500  # answers that come out together at most: they are journaled in one transaction
PATIENCE = 5.0  # seconds that threads get to end when sampling stops
pause = 0.2  # seconds before the second attempt of a teacher that answers one by one; doubles with each further one


class Crew:
    """As a context manager; leaving it stops whoever is still at work.

    A teacher that offers ``answer`` gets its desk and works as it likes. One that offers ``solve`` alone is asked for
    one sample after the other, and the next one only when the last has come out: a kill costs it one.
    """

    def __init__(
        self, teachers: Mapping[str, Any], attempts: int, ledger: Ledger, notes: Mapping[str, dict[str, str]]
    ) -> None:
        """``notes``: teacher -> those of earlier runs."""
        self.teachers = dict(teachers)
        self.inbox: SimpleQueue[Any] = SimpleQueue()
        self.attempts, self.left = attempts, 0
        self.desks = {name: Desk(name, attempts, ledger, notes.get(name, {}), self.inbox) for name in teachers}
        self.threads: dict[str, threading.Thread] = {}
        self.error: BaseException | None = None  # of a teacher, raised once what was said before it is out
        self.handed = {name: threading.Semaphore(0) for name in teachers}  # of those that are asked one by one

    def __enter__(self) -> Crew:
        return self

    def put(self, teacher: str, ask: Ask) -> None:
        self.left += 1
        self.desks[teacher].put(ask)

    def answers(self) -> Iterator[list[Answer | Note]]:
        """Answers, some at a time, until none is left; a note's ``kept`` has to be set by whoever reads it.

        More may be put while they come out. Raises what a teacher raised.
        """
        if self.lone is not None:
            yield from self.one_by_one(self.lone)
            return
        self.rouse()
        while self.left:
            some = self.some()
            self.left -= sum(isinstance(each, Answer) for each in some)
            yield some
            for each in some:
                if isinstance(each, Answer):
                    self.handed[each.teacher].release()
            self.rouse()
        for desk in self.desks.values():
            desk.close()
        for thread in self.threads.values():  # what they still have to do: settle, and close what they opened
            while thread.is_alive():
                thread.join(0.05)
                if not self.inbox.empty():
                    yield self.some()
        if not self.inbox.empty():
            yield self.some()

    @property
    def lone(self) -> str | None:
        """The one teacher, if it answers one by one: it needs no thread, and may use signals."""
        name, *others = self.desks
        return None if others or hasattr(self.teachers[name], "answer") else name

    def one_by_one(self, name: str) -> Iterator[list[Answer | Note]]:
        while self.left:
            ask = self.desks[name].waiting.popleft()
            said = self.solved(self.teachers[name], ask, self.desks[name])
            self.left -= 1
            yield [Answer(name, ask, said)]

    def rouse(self) -> None:
        """Begin with those who have something to do and no thread yet; tell the others that there is more."""
        for name, desk in self.desks.items():
            if name not in self.threads and desk.waiting:
                work = threading.Thread(target=self.work, args=(name,), name=f"teacher {name}", daemon=True)
                self.threads[name] = work
                work.start()
            elif desk.waiting:
                desk.ring()

    def some(self) -> list[Answer | Note]:
        """What has come, waiting for the first. Raises what a teacher raised."""
        found: list[Answer | Note] = []
        if self.error is not None:
            raise self.error
        item = self.inbox.get()
        while True:
            if isinstance(item, Ended):
                early = f"teacher '{item.teacher}' ended before it had answered all that it was asked"
                error = item.error or (None if self.desks[item.teacher].closed else InputError(early))
                if error is not None and not found:
                    raise error
                self.error = self.error or error
            else:
                found.append(item)
            if len(found) == AT_ONCE:
                return found
            try:
                item = self.inbox.get_nowait()
            except Empty:
                return found

    def work(self, name: str) -> None:
        """A teacher's thread."""
        desk, teacher = self.desks[name], self.teachers[name]
        try:
            if hasattr(teacher, "answer"):
                teacher.answer(desk)
            else:
                for ask in desk:
                    desk.give(ask, self.solved(teacher, ask, desk))
                    self.handed[name].acquire()
        except Stopped:
            desk.end(None)
        except BaseException as error:
            desk.end(error)
        else:
            desk.end(None)

    def solved(self, teacher: Any, ask: Ask, desk: Desk) -> Any:
        """What a teacher says for one sample; a failing teacher is asked ``attempts`` times."""
        for attempt in range(self.attempts):
            desk.look()
            try:
                return teacher.solve(ask.question, style=ask.style, temperature=ask.temperature, seed=ask.seed)
            except InputError:
                raise
            except Exception as error:  # a teacher may be anybody's code or a remote service
                if attempt + 1 == self.attempts:
                    return fail(ask, desk.teacher, self.attempts, error)
                time.sleep(pause * 2**attempt)
        raise AssertionError("unreachable")

    def stop(self) -> list[Answer]:
        """Nobody is to go on; what has been said and has not come out."""
        for name, desk in self.desks.items():
            desk.close(now=True)
            self.handed[name].release()
        found = []
        with contextlib.suppress(Empty):
            while True:
                if isinstance(item := self.inbox.get_nowait(), Answer):
                    found.append(item)
        return found

    def __exit__(
        self, type_: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if type_ is None or issubclass(type_, Exception):  # at Ctrl-C nobody waits
            for thread in self.threads.values():
                thread.join(PATIENCE)
