"""The order of an epoch: what is drawn at random, and how packs of similar cost become groups and steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracestill.data_pipeline.plan.packing import Packing

LINEAR_COST = 24_576  # tokens; 6 x hidden size 4096: where attention's L^2 equals the rest of a layer (verl's figure)
CHUNK = 1 << 20  # documents handled at a time where a temporary array would otherwise be as long as the data


def step_sizes(packs: int, per_step: int) -> np.ndarray:
    """(steps,) packs in each step: as few steps as possible, and as equal as possible, so that no step is a stub
    whose few documents get a whole update."""
    steps = -(-packs // per_step)
    return packs // steps + (np.arange(steps) < packs % steps)


def order_packs(
    packing: Packing,
    sizes: np.ndarray,  # (steps,) packs in each step
    group: int,  # neighbours in cost that stay together
    by_cost: bool,  # False: every pack for itself, in random order
    bits: np.random.Philox,
    stages: Sequence[int] = (),  # bins of each stage of the epoch, which come one after the other; (): there is one
) -> tuple[np.ndarray, np.ndarray]:
    """((bins,) rank of each bin, (bins,) rank at each place of the epoch): bins sorted by cost get their rank, and
    whole groups of neighbouring ranks are laid out in random order, those of a stage among themselves. A step of
    several groups gets a cheap one, a dear one and some between, as evenly as may be: its first from the cheapest."""
    first, width, _, tokens, squares = packing.runs.T
    ends = np.cumsum(stages or [packing.bins])
    stage, cost = np.searchsorted(ends, first, side="right"), LINEAR_COST * tokens + squares
    # every other stage runs from the dearest to the cheapest: a group at a border has packs of both, of similar cost
    cheapest = np.lexsort((first, np.where(stage % 2, -cost, cost), stage))
    first_rank = np.empty_like(width)
    first_rank[cheapest] = np.cumsum(width[cheapest]) - width[cheapest]
    index = np.int32 if packing.bins < 1 << 31 else np.int64
    rank_of_bin = np.repeat((first_rank - first).astype(index), width) + np.arange(packing.bins, dtype=index)
    if not by_cost:
        return rank_of_bin, shuffled_between(bits, ends).astype(index)

    # A step is cut into full groups and, where its size leaves a rest, one shorter group at its end.
    per_step = -(-sizes // group)
    members = np.full(per_step.sum(), group)
    members[np.cumsum(per_step) - 1] = sizes - group * (per_step - 1)
    borders = np.searchsorted(np.cumsum(members), ends) + 1  # a group that crosses one is of the stage before it
    drawn = shuffled_between(bits, borders).astype(np.int64)
    if per_step.max() > 1:
        column = np.arange(len(members)) - np.repeat(np.cumsum(per_step) - per_step, per_step)
        of_stage = np.searchsorted(borders, drawn, side="right")
        drawn = drawn[np.lexsort((column[drawn], of_stage))]
    begins = np.empty_like(members)
    begins[drawn] = np.cumsum(members[drawn]) - members[drawn]  # ranks are dealt to groups in the order drawn
    shift = begins - (np.cumsum(members) - members)
    return rank_of_bin, np.repeat(shift.astype(index), members) + np.arange(packing.bins, dtype=index)


def shuffled_between(bits: np.random.Philox, ends: np.ndarray) -> np.ndarray:
    """The ids 0..ends[-1]-1, each stretch that ends before one of ``ends`` in random order, as uint64."""
    begins = np.concatenate([[0], ends[:-1]])
    parts = [shuffled(bits, int(end - begin)) + np.uint64(begin) for begin, end in zip(begins, ends, strict=True)]
    return np.concatenate(parts)


def shuffled(bits: np.random.Philox, n: int, capacity: int = 0, lengths: np.ndarray | None = None) -> np.ndarray:
    """(n,) the ids 0..n-1 in random order, as uint64; with ``lengths``, by decreasing length and random within one.

    Sorts 64-bit keys (capacity - length, random bits, id) as integers. At least 7 random bits are left at the
    largest capacity and 2^32 documents, and 25 at 16,384 and 10 million; equal ones leave neighbours in id order.
    """
    id_bits = max(1, (n - 1).bit_length())
    free = np.uint64(64 - capacity.bit_length())
    low = np.uint64(id_bits)
    keys = np.empty(n, dtype=np.uint64)
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        key = bits.random_raw(part.stop - start)
        key >>= np.uint64(64) - free + low
        key <<= low
        key |= np.arange(start, part.stop, dtype=np.uint64)
        if lengths is not None:
            key |= (capacity - lengths[part].astype(np.int64)).astype(np.uint64) << free
        keys[part] = key
    keys.sort()
    keys &= np.uint64((1 << id_bits) - 1)
    return keys
