"""Locks of run directories as other processes left them, and the lock's times made short."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tracestill.trainer.lock import run_lock
from tracestill.trainer.lock.run_lock import LOCK, held, last_of


def quick(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """Times made short; no process is ended. Fills the reasons why this one would have ended, and the tokens of those
    who would have been."""
    robbed: list[str] = []
    ended: list[str] = []
    monkeypatch.setattr(run_lock, "BEAT", 0.02)
    monkeypatch.setattr(run_lock, "SILENCE", 0.3)
    monkeypatch.setattr(run_lock, "LOOK", 0.01)
    monkeypatch.setattr(run_lock, "end_robbed", lambda lock, why: robbed.append(why))
    monkeypatch.setattr(run_lock, "end_marked", lambda token, variable, *grace: ended.append(token))
    return robbed, ended


def owner_of(root: Path) -> run_lock.Owner:
    found = last_of(root)
    assert found is not None
    assert found.owner is not None
    return found.owner


def leave(root: Path, **changes: object) -> run_lock.Owner:
    """A lock as another process left it; that of this process with some things changed."""
    with held(root):
        owner = replace(owner_of(root), **{"token": "f" * 32, **changes})
    root.mkdir(exist_ok=True)
    (root / LOCK).write_text(json.dumps(vars(owner)))
    return owner


def refuse(*names: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
