"""The same questions in two forms: the difference of two shares, and its interval, question by question."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracestill.trainer.measures.spread import share, share_of_clusters

Row = dict[str, Any]


def share_of(values: np.ndarray) -> Row:
    """As ``spread.share``, of (Q,) values in [0, 1], one a question: right and wrong, or where a question was asked in
    several forms the share of those in which it was answered right."""
    if np.isin(values, (0.0, 1.0)).all():
        return share(float(values.sum()), len(values))
    return share_of_clusters(values, np.ones(len(values)))


def difference(before: np.ndarray, after: np.ndarray) -> Row:
    """``share``: the mean of ``after`` less that of ``before``, (Q,) values in [0, 1] of the same questions, at least
    one; ``low`` and ``high``: its 95 % interval.

    Newcombe's method 10 for paired proportions (Statistics in Medicine 17, 1998, 2635-2650): the limits of the two
    shares, and the correlation between them, without his correction of it for continuity. It is not of zero width
    where both forms agree on every question.
    """
    one, other, between = share_of(after), share_of(before), correlation(after, before)
    gap = one["share"] - other["share"]
    down = apart(one["share"] - one["low"], other["high"] - other["share"], between)
    up = apart(other["share"] - other["low"], one["high"] - one["share"], between)
    return {"share": gap, "low": max(gap - down, -1.0), "high": min(gap + up, 1.0)}


def apart(one: float, other: float, between: float) -> float:
    """How far a difference may be off, where its parts may be off so far and are correlated."""
    return math.sqrt(max(one**2 - 2 * between * one * other + other**2, 0.0))


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Pearson's; of right and wrong it is phi. 0 where either does not vary."""
    if one.std() == 0 or other.std() == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
