"""A rank's look at the lock of its run, before it commits: a rank may outlive the command that started it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.lock import run_lock
from tracestill.trainer.ranks.join_ranks import OWNER


class RankLock:
    """The lock of the command that started this rank, where it can be seen from here."""

    def __init__(self, directory: Path, environment: Mapping[str, str] = os.environ) -> None:
        """``directory`` lies in the run's. Without a lock of that command above it nothing is ever refused: the rank
        may have been started by hand, or on a host that does not share the run's disk and has an old lock there."""
        token = environment.get(OWNER)
        roots = [root for root in directory.absolute().parents if token is not None and token_in(root) == token]
        self.root = roots[0] if roots else None
        self.token = token

    def require(self) -> None:
        """Raises InputError naming the new owner if another command has taken the run over; it is read twice."""
        if self.root is None or token_in(self.root) in (self.token, None):
            return
        time.sleep(run_lock.LOOK)
        if token_in(self.root) not in (self.token, None):
            found = run_lock.last_of(self.root)
            raise InputError(f"{self.root}: was taken over by {found.owner if found else 'another command'}")


def token_in(root: Path) -> str | None:
    """The token of the owner of ``root``; None if there is none, or it cannot be read."""
    with contextlib.suppress(OSError):
        found = run_lock.last_of(root)
        return found.token if found is not None and found.owner is not None else None
    return None
