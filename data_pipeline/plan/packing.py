"""Best-fit-decreasing, run on how many documents have each length instead of on the documents.

Item by item, best-fit-decreasing takes the lengths from the longest to the shortest and puts each into the bin
with the least room that still holds it. Bins with the same room are interchangeable, and so are documents of
the same length. So the state is one class of bins for each residual (room left), and one move places a whole
run: for length s, the class with the smallest residual r >= s takes floor(r/s) documents in each of its bins.
That is what the item-by-item rule does: after one document the residual r - s is smaller than r and no bin lay
between s and r, so the same bin stays the best until it no longer holds s. Bins and residuals are therefore
exactly those of the item-by-item rule, and the time depends on the capacity and not on the number of documents.

With ``at_most``, a bin takes no more than so many documents of a length: one that still has room for another of that
length is set aside until the next shorter length is placed.

The rule is that of Johnson et al., Worst-case performance bounds for simple one-dimensional packing algorithms,
SIAM J. Comput. 3 (1974); finding the class is a search for the lowest set bit in a two-level bitmap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

WORD = 9  # log2 of the residuals that one word of the bitmap covers; Python integers may be any length
MASK = (1 << WORD) - 1

Run = tuple[int, int, int]  # first bin, bins, documents in each


@dataclass(frozen=True)
class Packing:
    """Which bin holds which lengths, as runs of neighbouring bins with the same content.

    bins        how many there are
    placements  (E, 5) int64: first bin, bins, documents put into each, documents each held before, their length.
                In the order of decreasing length: the documents, sorted that way, are used up one row after the
                other, and within a row bin by bin.
    runs        (R, 5) int64: first bin, bins, documents, tokens and sum of squared lengths of each bin. Every bin
                lies in exactly one run; sorted by first bin.
    """

    bins: int
    placements: np.ndarray
    runs: np.ndarray


@dataclass(frozen=True)
class Begun:
    """Bins that hold the longest documents already."""

    bins: int
    placements: list[tuple[int, int, int, int, int]]  # as ``Packing.placements``
    rooms: dict[int, list[Run]]  # room left -> runs of bins


def best_fit_decreasing(
    counts: np.ndarray,  # (capacity + 1,) integers: documents of each length
    capacity: int,
    at_most: np.ndarray | None = None,  # (capacity + 1,) integers >= 1
    begun: Begun | None = None,  # bins to go on with, which hold longer documents than those counted
) -> Packing:
    """Pack ``counts[s]`` documents of each length s, 1 <= s <= capacity, into bins of ``capacity`` tokens, and no more
    than ``at_most[s]`` of them into one bin.

    Uses exactly as many bins as best-fit-decreasing under that rule does item by item. Time and memory grow with the
    number of distinct lengths and residuals. Raises ValueError if a document is empty or ``counts`` has another shape.
    """
    if counts.shape != (capacity + 1,) or counts[0]:
        raise ValueError(f"counts must have shape ({capacity + 1},) and no empty document; got {counts.shape}")
    classes: list[list[Run]] = [[] for _ in range(capacity + 1)]  # residual -> runs of bins
    words = [0] * ((capacity >> WORD) + 1)  # bit r: some bin has residual r
    top = 0  # bit w: words[w] is not zero
    placements: list[tuple[int, int, int, int, int]] = []
    bins = 0
    if begun is not None:
        bins, placements = begun.bins, [*begun.placements]
        for residual, held in begun.rooms.items():
            classes[residual] = [*held]
            words[residual >> WORD] |= 1 << (residual & MASK)
            top |= 1 << (residual >> WORD)

    # Pushing a run onto its class is written out in both places: a call would cost more than its body.
    sizes = np.flatnonzero(counts)[::-1]
    limits = (capacity // sizes) if at_most is None else np.minimum(at_most[sizes], capacity // sizes)
    for size, left, limit in zip(sizes.tolist(), counts[sizes].tolist(), limits.tolist(), strict=True):
        aside: list[tuple[int, Run]] = []  # (residual, run) of bins that may take no more of this length
        while left:
            word = size >> WORD
            bits = words[word] >> (size & MASK)
            if bits:
                residual = size + (bits & -bits).bit_length() - 1
            else:
                above = top >> (word + 1)
                if not above:
                    break  # no open bin holds this length
                word += (above & -above).bit_length()
                bits = words[word]
                residual = (word << WORD) + (bits & -bits).bit_length() - 1
            fits = min(residual // size, limit)
            runs = classes[residual]
            while left and runs:
                first, width, documents = runs.pop()
                take = fits
                if width * fits > left:  # more room than documents: only some of these bins, or one bin in part
                    take = min(fits, left)
                    filled = left // take
                    if filled < width:
                        runs.append((first + filled, width - filled, documents))
                        width = filled
                left -= width * take
                placements.append((first, width, take, documents, size))
                rest = residual - take * size
                if rest >= size and left:
                    aside.append((rest, (first, width, documents + take)))
                    continue
                into = classes[rest]
                if not into:
                    words[rest >> WORD] |= 1 << (rest & MASK)
                    top |= 1 << (rest >> WORD)
                into.append((first, width, documents + take))
            if not runs:
                words[word] ^= 1 << (residual & MASK)
                if not words[word]:
                    top ^= 1 << word
        fits = limit
        for width, take in ((left // fits, fits), (1, left % fits)):
            if width and take:
                placements.append((bins, width, take, 0, size))
                rest = capacity - take * size
                into = classes[rest]
                if not into:
                    words[rest >> WORD] |= 1 << (rest & MASK)
                    top |= 1 << (rest >> WORD)
                into.append((bins, width, take))
                bins += width
        for rest, run in aside:
            if not classes[rest]:
                words[rest >> WORD] |= 1 << (rest & MASK)
                top |= 1 << (rest >> WORD)
            classes[rest].append(run)
    placed = _rows(placements, 5)
    return Packing(bins, placed, _measure(_rows(list(chain.from_iterable(classes)), 3), placed))


def side_by_side(packings: Sequence[Packing]) -> Packing:
    """Several packings as one: the bins of each behind those of the one before."""
    if len(packings) == 1:
        return packings[0]
    begins = np.cumsum([0, *(packing.bins for packing in packings)])
    moved = [
        [np.concatenate([rows[:, :1] + begin, rows[:, 1:]], axis=1) for rows in (packing.placements, packing.runs)]
        for packing, begin in zip(packings, begins.tolist(), strict=False)
    ]
    placements, runs = (np.concatenate(parts) for parts in zip(*moved, strict=True))
    return Packing(int(begins[-1]), placements, runs)


def _rows(rows: Sequence[tuple[int, ...]], columns: int) -> np.ndarray:
    """(len(rows), columns) int64."""
    return np.fromiter(chain.from_iterable(rows), np.int64, len(rows) * columns).reshape(-1, columns)


def _measure(
    runs: np.ndarray,  # (R, 3)
    placements: np.ndarray,  # (E, 5)
) -> np.ndarray:
    """(R, 5) the runs sorted by first bin, with the tokens and the sum of squared lengths of each of their bins.

    A placement covers whole neighbouring runs, so it adds at the run where it begins and is taken back at the run
    where it ends; the running sums are the totals.
    """
    runs = runs[np.argsort(runs[:, 0])]
    first, width, take, _, size = placements.T
    begins, ends = (np.searchsorted(runs[:, 0], at) for at in (first, first + width))
    sums = np.zeros((2, len(runs) + 1), np.int64)
    for row, added in zip(sums, (take * size, take * size * size), strict=True):
        np.add.at(row, begins, added)
        np.subtract.at(row, ends, added)
    return np.concatenate([runs, sums.cumsum(axis=1)[:, :-1].T], axis=1)


def expand(
    packing: Packing,
    documents: np.ndarray,  # (N,) ids sorted by decreasing length
    first_slot: np.ndarray,  # (bins,) where each bin's documents begin in the result
) -> np.ndarray:
    """(N,) document ids in pack order: bin b's documents lie from ``first_slot[b]`` on, longest first."""
    dtype = first_slot.dtype
    first, width, take, before, _ = packing.placements.T
    pairs = int(width.sum())  # (placement, bin) pairs
    slots = np.repeat((first - (np.cumsum(width) - width)).astype(dtype), width)
    slots += np.arange(pairs, dtype=dtype)  # the bin of each pair
    slots = first_slot[slots]
    slots += np.repeat(before.astype(dtype), width)
    if pairs != len(documents):  # some bins take several documents of one length
        several = np.repeat(take.astype(dtype), width)
        slots += several
        slots -= np.cumsum(several, dtype=dtype)
        slots = np.repeat(slots, several)
        slots += np.arange(len(documents), dtype=dtype)
    packed = np.empty_like(documents)
    packed[slots] = documents
    return packed
