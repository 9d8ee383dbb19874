"""Long work that each rank does for itself between two steps, and that all leave where one is asked to stop meanwhile,
or fails.

The ranks meet in the middle of it, every so many seconds and all equally often, whoever has more to do: so they hear of
a request, or of a failure, at the same meeting, long before a launcher loses its patience (DeepSpeed's: 30 s).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

import torch

from tracestill.trainer.ranks.collectives import FAULTS, OtherFailed, exchange

MEET_SECONDS = 2.0  # between two meetings, at least


class Left(Exception):
    """All ranks have left work that was not done, because one of them was asked to stop."""


class Meetings:
    """Those of one piece of work, on one rank."""

    def __init__(
        self, asked: Callable[[], object], tell: Callable[[int], None], along: Callable[[], None] | None = None
    ) -> None:
        self.asked, self.tell, self.along = asked, tell, along
        self.done, self.met = 0, time.monotonic()

    def tick(self, done: int) -> None:
        """So many units of this rank's work are done; meet, if it is time. Raises as ``meet``."""
        self.done = done
        if self.along is None and time.monotonic() - self.met >= MEET_SECONDS:
            self.meet(works=True)

    def meet(self, *, works: bool, failed: bool = False) -> bool:
        """Whether any rank is still at work; called by all. Raises Left on all of them if one is, and one was asked to
        stop; else OtherFailed on all if one has ``failed``."""
        said = exchange(torch.tensor([bool(self.asked()), works, self.done, failed], dtype=torch.float64))
        asks, working, done, failures = torch.stack(said).sum(dim=0).tolist()
        self.met = time.monotonic()
        self.tell(int(done))
        if asks and working:
            raise Left
        if failures:
            raise OtherFailed
        return working > 0


@contextlib.contextmanager
def meetings(
    asked: Callable[[], object],
    tell: Callable[[int], None] = lambda done: None,
    along: Callable[[], None] | None = None,
) -> Iterator[Meetings]:
    """For a rank's share of some work, which calls ``Meetings.tick`` now and then; called on every rank. ``asked``:
    whether this rank is to stop; ``tell`` hears at each meeting how many units of all ranks' work are done.

    To be called inside of ``together``. Ends when all ranks' shares have, so that all meet equally often. An error that
    ``together`` tells of is raised at the next meeting, and OtherFailed on the other ranks. Raises Left on all ranks,
    whose cause is such an error of this one's.

    ``along``: for work that no rank does alone, piece by piece: a rank that works calls ``Meetings.meet`` itself before
    each piece, which then is the only time that they meet, and one whose share is done goes ``along``.
    """
    held, failure = Meetings(asked, tell, along), None
    try:
        yield held
    except FAULTS as error:
        failure = error
    try:
        while held.meet(works=False, failed=failure is not None):
            if along is not None:
                along()
    except Left as left:
        raise left from failure
    except OtherFailed:
        if failure is None:
            raise
        raise failure from None
