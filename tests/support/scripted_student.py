"""A student that says what a test wants it to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from tracestill.trainer.evaluation import asking
from tracestill.trainer.writing.decoding import Wanted, Written


def script(
    monkeypatch: pytest.MonkeyPatch, says: Sequence[Sequence[int]] | Callable[[Wanted], Sequence[int]], stop: int
) -> tuple[list[Wanted], dict[str, Any]]:
    """In place of all writing: these ids, in the order in which they are wanted. What is wanted, and the settings that
    came with it, are in what is returned, afterwards."""
    seen: list[Wanted] = []
    told: dict[str, Any] = {}

    def write_wanted(model: Any, wanted: Sequence[Wanted], ended: Any, **settings: Any) -> None:
        told.update(settings)
        for one in wanted:
            ids = list(says(one) if callable(says) else says[len(seen)])
            seen.append(one)
            ended(one, Written(ids, [-1.0] * len(ids), ids[-1] == stop))

    monkeypatch.setattr(asking, "write_wanted", write_wanted)
    return seen, told
