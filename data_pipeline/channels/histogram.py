"""How a channel's values are spread over the targets of a store: counted by kind and value, exactly, in a table.

Values are compared as float16, of which there are 65,536: so quantiles and shares are those of all targets, need no
sample and no sort, and are the same on every rank. What is stored in more bits is rounded to float16 first; from 2,048
on, ranks are then told apart to about a thousandth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tracestill.data_pipeline.channels.named import Scores, by_token, floats, named
from tracestill.data_pipeline.channels.shards import shards_of

CODES = 1 << 16
AT_A_TIME = 1 << 20  # tokens


def codes_of(values: np.ndarray) -> np.ndarray:
    """(n,) int64 places of values among the float16, in their order; 0 and -0 have one; NaN has one behind infinity."""
    with np.errstate(over="ignore"):
        bits = (np.asarray(values, np.float16) + np.float16(0)).view(np.uint16)  # -0 + 0 is 0
    return np.where(bits >> 15, ~bits, bits | np.uint16(1 << 15)).astype(np.int64)


def values_of_codes() -> np.ndarray:
    """(65536,) float32: the value that stands at each place; NaN at those of none."""
    codes = np.arange(CODES, dtype=np.uint16)
    return (
        np.where(codes >> 15, codes ^ np.uint16(1 << 15), ~codes).astype(np.uint16).view(np.float16).astype(np.float32)
    )


VALUES = values_of_codes()
KNOWN = ~np.isnan(VALUES)


@dataclass(frozen=True)
class Histogram:
    """Targets of R rows of kinds, by what a channel says of them."""

    counts: np.ndarray  # (R, 65536) int64: known targets
    unknown: np.ndarray  # (R,) int64: targets of which the channel says nothing

    @property
    def known(self) -> np.ndarray:
        """(R,) int64."""
        return self.counts.sum(axis=1)


def histogram(
    scores: Scores,
    name: str,
    row_of_kind: np.ndarray,  # (K,) int64 row of each kind, -1: not counted
    in_trace: np.ndarray,  # (K,) bool: kinds of the trace
) -> Histogram:
    """Count the targets of a whole store, about a million tokens at a time. Raises InputError as ``named.named``."""
    channels, channel = named(scores, name)
    store, rows = channels.store, int(row_of_kind.max()) + 1
    counts, unknown = np.zeros((rows, CODES), np.int64), np.zeros(rows, np.int64)
    for shard in shards_of(store.lengths, AT_A_TIME):
        parts = []
        for document in shard.documents:
            kinds = store.kinds(document)
            values = floats(channels.of(channel.name, document), channel)
            steps = store.steps(document) if channel.per == "step" else kinds
            parts.append((by_token(values, channel, steps, in_trace[kinds])[1:], row_of_kind[kinds[1:]]))
        values, row = (np.concatenate(column) for column in zip(*parts, strict=True))
        counted, known = row >= 0, ~np.isnan(values)
        both = counted & known
        places = row[both] * CODES + codes_of(values[both])
        counts += np.bincount(places, minlength=rows * CODES).reshape(rows, CODES)
        unknown += np.bincount(row[counted & ~known], minlength=rows)
    return Histogram(counts, unknown)


def edge_of(counts: np.ndarray, share: float, *, above: bool) -> np.ndarray:
    """(65536,) float32: the part of the targets at each value that belongs to the ``share`` of all with the largest (or
    smallest) values: 1 beyond the quantile, 0 before it, and at it what is missing. ``counts``: (65536,)."""
    order = counts[::-1] if above else counts
    before = np.cumsum(order) - order
    wanted = share * counts.sum()
    taken = np.clip((wanted - before) / np.maximum(order, 1), 0, 1)
    taken = np.where(order > 0, taken, before < wanted).astype(np.float32)
    return taken[::-1] if above else taken
