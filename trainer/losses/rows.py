"""Documents that are read together where nothing is learned: runs of their order, packed as it comes."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def rows_of(
    lengths: np.ndarray,  # (N,)
    limit: int,
    *,
    order: Iterable[int] | None = None,
) -> list[np.ndarray]:
    """Documents (by number) in rows of at most ``limit`` tokens, or of one longer document. ``order``: those that are
    wanted; None: all, the shortest first, so that little is padded."""
    rows: list[list[int]] = []
    room = 0
    for document in np.argsort(lengths, kind="stable").tolist() if order is None else order:
        length = int(lengths[document])
        if not rows or length > room:
            rows.append([])
            room = limit
        rows[-1].append(document)
        room -= length
    return [np.array(row, dtype=np.int64) for row in rows]
