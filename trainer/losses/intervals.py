"""95 % intervals of what is measured on held-out questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tracestill.data_pipeline.base.intervals import Z95


def mean_interval(
    sums: np.ndarray,  # (D,) of each document's values
    counts: np.ndarray,  # (D,) how many they are
    groups: Sequence[str],  # (D,) documents of one group, such as a question, are not independent of each other
) -> tuple[float, float] | None:
    """The 95 % interval of the mean of all values, by the spread between groups; None with fewer than two of them.

    The variance of a ratio of sums, linearised (Cochran, Sampling Techniques, 1977, 6.3): G / (G - 1) *
    sum_g (S_g - mean * N_g)^2 / N^2. Values inside a document may depend on each other as they like.
    """
    _, group = np.unique(np.asarray(groups), return_inverse=True)
    total, number = np.bincount(group, weights=sums), np.bincount(group, weights=counts)
    total, number = total[number > 0], number[number > 0]
    if len(number) < 2:
        return None
    mean = total.sum() / number.sum()
    spread = len(number) / (len(number) - 1) * np.square(total - mean * number).sum()
    half = Z95 * float(np.sqrt(spread)) / float(number.sum())
    return float(mean) - half, float(mean) + half
