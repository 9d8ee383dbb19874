"""Watchdogs made as by the only rank of a training, without ranks that meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracestill.trainer.faults import watchdog
from tracestill.trainer.ranks import heartbeat
from tracestill.trainer.ranks.placement import Placement


def alone(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """From now on, with their boards in ``folder``."""
    monkeypatch.setattr(heartbeat, "shared_memory", lambda: folder)
    monkeypatch.setattr(watchdog, "find_placement", lambda: Placement(("here",), ((0,),), 0))
    monkeypatch.setattr(watchdog, "share_text", lambda text: text)
    monkeypatch.setattr(watchdog.dist, "get_rank", lambda: 0)
    monkeypatch.setattr(watchdog.dist, "barrier", lambda: None)
