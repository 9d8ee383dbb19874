"""Saving while training goes on: the copy is taken between two steps, the disk is waited for by a thread.

The ranks' threads talk in a gloo group of their own, never in the one that training uses. They agree on what came of
a save as ``checkpoint.write`` does, so a failure is known on every rank; and training asks for it where all ranks are
after the same step. One save is under way at a time. A rank that ends, or is killed, in the middle of a save leaves a
directory without a manifest, which nothing loads.
"""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.shards import Room, touch
from tracestill.trainer.engine import offload, zero
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.lock.rank_lock import RankLock
from tracestill.trainer.ranks.placement import Placement

PATIENCE = timedelta(days=1)  # with the slowest rank's disk; a rank that dies is noticed at once


class NoSaver:
    """Keeps nothing, and is never due: for a benchmark. What training asks of a saver."""

    seconds: float | None = None
    saved: int | None = None

    @property
    def failed(self) -> bool:
        return False

    @property
    def due(self) -> bool:
        return False

    def make_room(self, engine: Engine) -> None:
        pass

    def save(self, engine: Engine, step: int, state: dict[str, Any], *, best: int | None = None) -> None:
        pass

    def wait(self) -> None:
        pass

    def __enter__(self) -> NoSaver:
        return self

    def __exit__(self, raised: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        pass


class Saver(NoSaver):
    """Commits checkpoints of a training. Used as a context: it does not end before its last save has.

    ``background`` says whether training goes on meanwhile; otherwise ``save`` returns when all is done.
    ``seconds`` is the time that the last save took, from the copy to the commit, and ``saved`` its step.
    """

    def __init__(
        self,
        directory: Path,
        *,
        keep: int,
        background: bool,
        placement: Placement | None = None,
        interval: float | None = None,
    ) -> None:
        """Called on every rank. ``placement`` as ``checkpoint.write`` takes it; ``interval`` is that of ``due``."""
        self.directory, self.keep, self.background, self.placement = directory, keep, background, placement
        self.interval, self.begun = interval, time.monotonic()
        self.lock = RankLock(directory)
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        self.group = None if alone else dist.new_group(backend="gloo", timeout=PATIENCE)
        self.room: Room | None = {} if background else None  # training has to fit beside it anyway
        self.thread: threading.Thread | None = None
        self.failure: BaseException | None = None

    @property
    def failed(self) -> bool:
        """Whether this rank knows that the save under way has failed; ``wait`` tells on all ranks."""
        return self.failure is not None

    @property
    def due(self) -> bool:
        """Whether the last save began ``interval`` seconds ago and has ended. Ranks whose clocks differ must agree on
        one answer before they save."""
        waiting = self.thread is not None and self.thread.is_alive()
        return self.interval is not None and not waiting and time.monotonic() - self.begun >= self.interval

    def make_room(self, engine: Engine) -> None:
        """Once, after the first update: let a thread find the memory of the first copy while training goes on, for that
        is most of what it costs. Not with train.offload to nvme, whose files would be read for it."""
        if self.room is None or self.room or not zero.count_updates(engine.deepspeed):
            return
        if offload.is_swapped(engine.deepspeed.optimizer):
            return
        checkpoint.reserve(engine, self.room)
        self.thread = threading.Thread(target=touch, args=[self.room], name="make-room", daemon=True)
        self.thread.start()

    def save(self, engine: Engine, step: int, state: dict[str, Any], *, best: int | None = None) -> None:
        """Take a copy of the engine's state, and write it as ``checkpoint.write`` does, after the save before it.

        Called on every rank. Raises InputError on all of them if that one failed.
        """
        self.wait()
        begun = self.begun = time.monotonic()
        held = checkpoint.snapshot(engine, step, state, self.room)
        how: dict[str, Any] = {"keep": self.keep, "best": best, "group": self.group, "placement": self.placement}
        how["require"] = self.lock.require

        def work() -> None:
            try:
                checkpoint.write(held, self.directory, **how)
                self.seconds, self.saved = time.monotonic() - begun, step
            except BaseException as error:
                self.failure = error

        self.thread = threading.Thread(target=work, name=f"save-{step}", daemon=True)
        self.thread.start()
        if not self.background:
            self.wait()

    def wait(self) -> None:
        """Return when nothing is under way. Called on every rank; raises InputError on all if the save failed."""
        if self.thread is not None:
            self.thread.join()
            self.thread = None
        if self.failure is not None:
            failure, self.failure = self.failure, None
            raise failure

    def __exit__(self, raised: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        """An InputError ends all ranks alike, so what is under way is finished first. After any other error a rank may
        be lost, and what waits for it would wait in vain."""
        if raised is None:
            self.wait()
        elif issubclass(raised, InputError) and self.thread is not None:
            self.thread.join()
