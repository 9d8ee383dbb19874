"""Whether somebody is at work in a run: its lock, looked at from outside and never touched."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tracestill.trainer.lock import run_lock
from tracestill.trainer.ranks.heartbeat import lives, node_identity

Word = Literal["nobody", "alive", "unseen", "dead", "silent"]
AT_WORK = ("alive", "unseen")


@dataclass(frozen=True)
class Pulse:
    """Who holds the run, and how it is with them.

    ``dead``: its process is gone, on this host. ``silent``: it is on another host, or in another container, and gave no
    sign of life for ``run_lock.SILENCE`` seconds. ``unseen``: there, too, and not watched for long enough to know.
    """

    word: Word
    owner: run_lock.Owner | None = None

    @property
    def at_work(self) -> bool:
        return self.word in AT_WORK


class Feel:
    """Feels the pulse of a run's owner, look by look: clocks of two hosts are never compared."""

    def __init__(self, root: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.root, self.clock = root, clock
        self.node = node_identity().hex()[:16]
        self.token = ""
        self.sign: tuple[int, int] | None = None
        self.since = 0.0
        self.moved = False

    def look(self) -> Pulse:
        try:
            found = run_lock.last_of(self.root)
        except OSError:  # a directory that hangs, or may not be read
            return Pulse("unseen")
        if found is None:
            return Pulse("nobody")
        owner = found.owner
        if owner is not None and owner.node == self.node and owner.born:
            alive = lives(owner.pid, owner.born)
            if alive is False:
                return Pulse("dead", owner)
            if alive and owner.path == str(self.root.resolve()):
                return Pulse("alive", owner)
        return Pulse(self.by_signs(found), owner)

    def by_signs(self, found: run_lock.Found) -> Word:
        now, sign = self.clock(), run_lock.sign_of_life(found)
        if found.token != self.token:
            self.token, self.sign, self.since, self.moved = found.token, sign, now, False
        elif sign != self.sign:
            self.sign, self.since, self.moved = sign, now, True
        if now - self.since > run_lock.SILENCE:
            return "silent"
        return "alive" if self.moved else "unseen"
