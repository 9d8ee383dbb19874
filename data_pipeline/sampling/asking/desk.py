"""Where a teacher that answers many at a time finds what is asked of it, and lays down what it says.

A teacher works in a thread of its own and never touches the journal: everything goes through the sampler, its one
writer.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any, NamedTuple

from tracestill.data_pipeline.sampling.asking.money import Ledger
from tracestill.data_pipeline.sampling.teachers import Ask, Failed


class Stopped(BaseException):
    """Raised in a teacher's thread when sampling ends before it is done: nobody wants its answers any more."""


class NotAsked(NamedTuple):
    """In place of an answer: the money does not suffice to ask for it."""


class Answer(NamedTuple):
    teacher: str
    ask: Ask
    said: Any  # Solution, Said, Failed, NotAsked, or what a module of the user's returns instead


class Note(NamedTuple):
    """A line for the journal that a teacher needs after a restart; ``kept`` is set once it is on disk."""

    teacher: str
    name: str
    value: str | None
    kept: threading.Event


class Ended(NamedTuple):
    teacher: str
    error: BaseException | None


class Desk:
    """One teacher's. The sampler puts asks and closes it; the teacher takes and gives."""

    def __init__(
        self, teacher: str, attempts: int, ledger: Ledger, notes: dict[str, str], inbox: SimpleQueue[Any]
    ) -> None:
        """``attempts``: times that a failing teacher is asked for one sample; ``notes``: those of earlier runs."""
        self.teacher, self.attempts, self.ledger, self.notes = teacher, attempts, ledger, notes
        self.bell: Callable[[], None] | None = None  # called, in any thread, when there is more to take, or the end
        self._inbox, self.waiting = inbox, deque[Ask]()
        self.closed = self._stopped = False
        self._change = threading.Condition()

    # the sampler's side

    def put(self, ask: Ask) -> None:
        self.waiting.append(ask)

    def ring(self) -> None:
        """After ``put``, once for many."""
        with self._change:
            self._change.notify_all()
        if self.bell is not None:
            self.bell()

    def close(self, *, now: bool = False) -> None:
        """There will be no more; ``now``: what waits is not wanted either."""
        self.closed = True
        self._stopped = self._stopped or now
        self.ring()

    # the teacher's side

    def taken(self, most: int, alike: Callable[[Ask, Ask], bool] | None = None) -> list[Ask] | None:
        """What there is, at most so many, without waiting; None at the end. ``alike``: only such as belong together
        with the first. Raises Stopped."""
        self.look()
        closed = self.closed  # before the look, so that nothing put between is overlooked
        found: list[Ask] = []
        while self.waiting and len(found) < most:
            if alike is not None and found and not alike(found[0], self.waiting[0]):
                break
            found.append(self.waiting.popleft())
        return None if closed and not found else found

    def take(self, most: int) -> list[Ask] | None:
        """As ``taken``, but waits for at least one."""
        while (found := self.taken(most)) == []:
            with self._change:
                if not self.waiting and not self.closed:
                    self._change.wait()
        return found

    def __iter__(self) -> Iterator[Ask]:
        while found := self.take(1):
            yield from found

    def give(self, ask: Ask, said: Any) -> None:
        """An answer, a ``Failed``, or ``NotAsked``: exactly one for each ask."""
        self.look()
        self._inbox.put(Answer(self.teacher, ask, said))

    def note(self, name: str, value: str | None) -> None:
        """Keep a text under a name in the journal, and wait until it is on disk; None: forget it."""
        kept = threading.Event()
        self._inbox.put(Note(self.teacher, name, value, kept))
        while not kept.wait(0.5):
            self.look()
        if value is None:
            self.notes.pop(name, None)
        else:
            self.notes[name] = value

    def look(self) -> None:
        if self._stopped:
            raise Stopped

    def end(self, error: BaseException | None) -> None:
        self._inbox.put(Ended(self.teacher, error))


def fail(ask: Ask, teacher: str, attempts: int, error: Exception) -> Failed:
    """What is said of a sample whose teacher failed at every attempt."""
    return Failed(
        "failed",
        f"teacher '{teacher}' failed {attempts} times on question {ask.question.question_id} "
        f"({type(error).__name__}: {error})",
    )
