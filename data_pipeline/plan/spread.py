"""Packs that are as mixed as the epoch: long documents are dealt out to all packs before short ones fill them up.

Best-fit-decreasing fills one bin after the other, so documents of one length share a pack, and a step of few packs
learns from short documents alone or from long ones alone: students learn slower by it (docs/throughput.md, "What a
step is made of"). So the longest documents go, one by one, to the bin that has the most room left, as many bins as
best-fit-decreasing would need. Every bin gets its share of long, middling and short ones, and the work of bins comes
out more even, too. The shortest, some tenths of the tokens, are then packed by best fit, which closes the gaps.

Worst fit runs on classes of bins with the same room, as best fit does (``packing``): one move puts a document of a
length into each bin of the emptiest class.
"""

from __future__ import annotations

from heapq import heappop, heappush

import numpy as np

from tracestill.data_pipeline.plan.packing import Begun, Packing, Run, best_fit_decreasing

KEPT = (0.2, 0.5)  # shares of the tokens that best fit places; the first that costs few packs is taken
MORE = 0.005  # packs beyond the fewest, as a share of them, that count as few


def spread(
    counts: np.ndarray,  # (capacity + 1,) integers: documents of each length
    capacity: int,
    at_most: np.ndarray | None = None,  # (capacity + 1,) integers >= 1
) -> Packing:
    """Pack what ``best_fit_decreasing`` packs, under the same rules, each bin mixed, into at most 0.5 % more bins.

    Where that does not go, it is ``best_fit_decreasing``'s packing.
    """
    tokens = int(counts @ np.arange(capacity + 1))
    found = mixed(counts, capacity, at_most, -(-tokens // capacity))
    if found is None:
        tight = best_fit_decreasing(counts, capacity, at_most)
        found = mixed(counts, capacity, at_most, tight.bins) or tight
    return found


def mixed(counts: np.ndarray, capacity: int, at_most: np.ndarray | None, bins: int) -> Packing | None:
    """As ``spread``, into about so many bins; None if it takes more than a few more."""
    lengths = np.arange(capacity + 1)
    tokens = np.cumsum(counts * lengths)  # of documents up to each length
    for share in KEPT:
        longest = int(np.searchsorted(tokens, share * tokens[-1]))  # of those that best fit places
        begun = deal(counts, capacity, longest, bins, at_most)
        if begun is not None:
            found = best_fit_decreasing(np.where(lengths > longest, 0, counts), capacity, at_most, begun)
            if found.bins <= bins + int(bins * MORE):
                return found
    return None


def deal(
    counts: np.ndarray,  # (capacity + 1,)
    capacity: int,
    longest: int,  # documents up to this length are left out
    bins: int,
    at_most: np.ndarray | None,
) -> Begun | None:
    """``bins`` bins with the documents longer than ``longest``, each put where the most room was; None if one does not
    fit anywhere."""
    rooms: dict[int, list[Run]] = {}  # room left -> runs of bins
    emptiest: list[int] = []  # heap of the keys of ``rooms``, negative
    placements: list[tuple[int, int, int, int, int]] = []  # as ``Packing.placements``
    opened = 0
    sizes = longest + 1 + np.flatnonzero(counts[longest + 1 :])[::-1]
    # a bin takes its second document of a length from another place of the row, where a copy of the first may be
    once = np.zeros(len(sizes), bool) if at_most is None else at_most[sizes] < counts[sizes]
    for size, left, single in zip(sizes.tolist(), counts[sizes].tolist(), once.tolist(), strict=True):
        aside: list[tuple[int, Run]] = []  # bins that may take no more of this length
        while left:
            if opened < bins:
                room, run = capacity, (opened, min(left, bins - opened), 0)
                opened += run[1]
            elif emptiest and -emptiest[0] >= size:
                room = -emptiest[0]
                runs = rooms[room]
                run = runs.pop()
                if run[1] > left:
                    runs.append((run[0] + left, run[1] - left, run[2]))
                    run = run[0], left, run[2]
                if not runs:
                    del rooms[room]
                    heappop(emptiest)
            else:
                return None
            first, width, documents = run
            left -= width
            placements.append((first, width, 1, documents, size))
            filled = room - size, (first, width, documents + 1)
            if single:
                aside.append(filled)
            else:
                put(rooms, emptiest, *filled)
        for filled in aside:
            put(rooms, emptiest, *filled)
    return Begun(opened, placements, rooms)


def put(rooms: dict[int, list[Run]], emptiest: list[int], room: int, run: Run) -> None:
    """Add bins that have so much room left."""
    if room not in rooms:
        rooms[room] = []
        heappush(emptiest, -room)
    rooms[room].append(run)
