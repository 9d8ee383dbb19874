"""How much there is to do in a step, on all ranks; every rank knows it from the plan."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tracestill.data_pipeline.plan.order import LINEAR_COST


@dataclass(frozen=True)
class Work:
    """The work of one optimizer step."""

    lengths: np.ndarray  # (D,) tokens of each document
    positions: int  # that are computed, padding and empty packs included
    balance: float  # mean over micro-steps of the busiest rank's work over the mean; 1 is perfect

    @property
    def tokens(self) -> int:
        return int(self.lengths.sum())


def work_of(
    lengths: np.ndarray,  # (D,) tokens of the step's documents, pack after pack
    counts: np.ndarray,  # (accumulation, ranks) documents in the pack of each micro-step and rank
    row_length: Callable[[int], int],  # positions of a row that holds so many tokens
) -> Work:
    """Work as the plan weighs it: 24,576 L + L^2 for a document of L tokens (see ``data_pipeline.plan``)."""
    pack = np.repeat(np.arange(counts.size), counts.ravel())
    length = lengths.astype(np.int64)
    tokens = np.bincount(pack, weights=length, minlength=counts.size)
    cost = np.bincount(pack, weights=length * (length + LINEAR_COST), minlength=counts.size).reshape(counts.shape)
    busy = cost[cost.any(axis=1)]
    balance = float((busy.max(axis=1) / busy.mean(axis=1)).mean()) if len(busy) else 1.0
    return Work(lengths, sum(row_length(int(n)) for n in tokens), balance)
