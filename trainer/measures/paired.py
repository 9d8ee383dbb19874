"""Shares of the same questions in two forms, and the interval of their difference, question by question."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from tracestill.data_pipeline.base.intervals import clustered, wilson


class Share(NamedTuple):
    """A share with its 95 % interval."""

    share: float
    low: float
    high: float


def share_of(values: np.ndarray) -> Share:
    """Of (Q,) values in [0, 1], one a question: Wilson's interval, or where values are shares themselves, such as of
    several wordings, one with as many trials as their spread is worth."""
    if np.isin(values, (0.0, 1.0)).all():
        return Share(float(values.mean()), *wilson(float(values.sum()), len(values)))
    return Share(*clustered(values, np.ones(len(values))))


def difference(before: np.ndarray, after: np.ndarray) -> Share:
    """The mean of ``after`` less that of ``before``, (Q,) values in [0, 1] of the same questions; 95 % interval.

    Newcombe's method 10 for paired proportions (Statistics in Medicine 17, 1998, 2635-2650): the limits of the two
    shares, and the correlation between them, without his correction of it for continuity. It is not of zero width
    where both forms agree on every question.
    """
    one, other = share_of(after), share_of(before)
    between = correlation(after, before)
    gap = one.share - other.share
    low, high = one.share - one.low, other.high - other.share
    down = math.sqrt(max(low**2 - 2 * between * low * high + high**2, 0.0))
    low, high = other.share - other.low, one.high - one.share
    up = math.sqrt(max(low**2 - 2 * between * low * high + high**2, 0.0))
    return Share(gap, max(gap - down, -1.0), min(gap + up, 1.0))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; of right and wrong it is phi. 0 where either does not vary."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
