"""The documents of one epoch, some of them several times, in stages: which pack each comes into.

A pack holds no document twice, unless one comes more often than its stage has packs. Copies of one have one length, and
places of a length are filled in a row, so the copies are spread over that row; the fewest places from one copy to the
next are the most documents of this length that a pack may take.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tracestill.data_pipeline.plan.packing import Packing, side_by_side
from tracestill.data_pipeline.plan.spread import spread


def arrange(
    lengths: np.ndarray,  # (N,) tokens of each document
    copies: np.ndarray,  # (N,) how often each comes
    stage_of: np.ndarray,  # (M,) stage of each copy; a document's copies are neighbours
    stages: int,
    grid: int,  # tokens that lengths are rounded up to a multiple of
    capacity: int,
    bits: np.random.Philox,
    pack: Callable[[np.ndarray, int, np.ndarray | None], Packing] = spread,
) -> tuple[Packing, np.ndarray, list[int]]:
    """(the packing; (M,) the documents in the order in which ``expand`` takes them; packs of each stage)."""
    places = capacity // grid  # a document longer than these is alone in its pack
    ids = np.repeat(np.arange(len(lengths), dtype=np.int32), copies)
    sizes = np.minimum(-(-lengths // grid), places).astype(np.int32)
    classes = stage_of.astype(np.int32) * np.int32(places + 1) + np.int32(places)
    classes -= sizes[ids]  # the long ones of a stage first
    shape = stages, places + 1
    order = in_rows(classes, stages * (places + 1), copies, bits)
    counts = np.bincount(classes, minlength=stages * (places + 1)).reshape(shape)[:, ::-1]
    documents, at_most = ids[order], None
    if copies.max() > 1:
        classes = classes[order]
        most = np.zeros(stages * (places + 1), np.int64)  # copies of a document of each class
        often = copies[documents]
        several = np.flatnonzero(often > 1)
        np.maximum.at(most, classes[several], often[several])
        least = np.maximum(-(-(counts @ np.arange(places + 1)) // places), 1)  # packs of each stage
        times = np.maximum(-(-most.reshape(shape) // least[:, None]), 1)
        at_most = (gaps(documents, classes, copies, stages * (places + 1)).reshape(shape) * times)[:, ::-1]
    packings = [pack(counts[at], places, None if at_most is None else at_most[at]) for at in range(stages)]
    packing = side_by_side(packings)
    packing.runs[:, 3] *= grid
    packing.runs[:, 4] *= grid**2
    return packing, documents, [each.bins for each in packings]


def in_rows(
    classes: np.ndarray,  # (M,) below ``count``
    count: int,
    copies: np.ndarray,  # (N,)
    bits: np.random.Philox,
) -> np.ndarray:
    """(M,) int64: the places 0..M-1 by class, and within one at random, the copies of a document far from each other.

    A document that is drawn at u of [0, 1) has the j-th of its c copies in a class at (j + u) / c of that one's row.
    Sorts 64-bit keys (class, place in the row, place) as integers, as ``order.shuffled`` does.
    """
    at = np.repeat(bits.random_raw(len(copies)) >> np.uint64(32), copies)
    if copies.max() > 1:
        several = np.flatnonzero(copies > 1)
        begins, times = (np.cumsum(copies) - copies)[several], copies[several]
        places = np.repeat(begins - (np.cumsum(times) - times), times) + np.arange(int(times.sum()))
        row = np.repeat(np.arange(len(several)), times) * count + classes[places]  # of one document and one class
        turn = np.argsort(row, kind="stable")
        places, row = places[turn], row[turn]
        first = np.flatnonzero(np.diff(row, prepend=-1))
        each = np.diff(first, append=len(row))
        number = (np.arange(len(row)) - np.repeat(first, each)).astype(np.uint64)
        at[places] = ((number << np.uint64(32)) + at[places]) // np.repeat(each, each).astype(np.uint64)
    low = max(1, (len(classes) - 1).bit_length())
    high = (count - 1).bit_length()
    kept = min(32, 64 - low - high)  # bits of the place in the row
    at >>= np.uint64(32 - kept)
    at <<= np.uint64(low)
    at |= classes.astype(np.uint64) << np.uint64(64 - high)
    at |= np.arange(len(classes), dtype=np.uint64)
    at.sort()
    at &= np.uint64((1 << low) - 1)
    return at.view(np.int64)


def gaps(documents: np.ndarray, classes: np.ndarray, copies: np.ndarray, count: int) -> np.ndarray:
    """(count,) int64: in each class of a row (M,), the fewest places from a document to its next copy, or M."""
    found = np.full(count, len(documents))
    several = np.flatnonzero(copies[documents] > 1)
    both = (documents[several].astype(np.int64) << 32) | several
    both.sort()
    of, at = both >> 32, both & 0xFFFFFFFF
    row = classes[at]
    again = np.flatnonzero((of[1:] == of[:-1]) & (row[1:] == row[:-1]))
    np.minimum.at(found, row[again], at[again + 1] - at[again])
    return found
