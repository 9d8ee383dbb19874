"""Shares and means with their intervals, differences between them, and values in bins that hold equally many."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.intervals import clustered, wilson

DRAWS = 2000  # of a bootstrap
AT_A_TIME = 1 << 22  # numbers of questions drawn
Row = dict[str, Any]


def share(successes: float, trials: int) -> Row:
    """``count``, ``share`` of successes, and Wilson's 95 % interval; None each where nothing was tried."""
    low, high = wilson(successes, trials) if trials else (None, None)
    return {"count": trials, "share": successes / trials if trials else None, "low": low, "high": high}


def share_of_clusters(successes: np.ndarray, trials: np.ndarray) -> Row:
    """As ``share``, of trials that come in clusters, such as the steps of a question: (Q,) each. The interval takes the
    clusters as independent, not what is in them."""
    successes, trials = successes[trials > 0], trials[trials > 0]
    if not len(trials):
        return share(0, 0)
    found, low, high = clustered(successes, trials)
    return {"count": int(trials.sum()), "share": found, "low": low, "high": high}


def share_of(values: np.ndarray) -> Row:
    """As ``share``, of (Q,) values in [0, 1], one a question: right and wrong, or where a question was asked in
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


def mean(values: np.ndarray, seed: int) -> Row:
    """``count``, ``share`` (the mean) of one value a question, NaN for none, and its bootstrapped 95 % interval."""
    values = values[~np.isnan(values)]
    if not len(values):
        return share(0, 0)
    low, high = bootstrap(values, np.ones(len(values)), seed)
    return {"count": len(values), "share": float(values.mean()), "low": low, "high": high}


def bootstrap(sums: np.ndarray, counts: np.ndarray, seed: int, draws: int = DRAWS) -> tuple[float, float]:
    """The 95 % interval of sum(sums) / sum(counts), (Q,) by question: percentiles of what questions drawn with
    replacement give (Efron, Annals of Statistics 7, 1979). Draws without any count are left out."""
    draw = np.random.default_rng(seed)
    number, found = len(sums), list[np.ndarray]()
    step = max(1, AT_A_TIME // number)
    for first in range(0, draws, step):
        chosen = draw.integers(number, size=(min(step, draws - first), number))
        above, below = sums[chosen].sum(axis=1), counts[chosen].sum(axis=1)
        found.append(above[below > 0] / below[below > 0])
    low, high = np.quantile(np.concatenate(found), (0.025, 0.975))
    return float(low), float(high)


def equal_mass(values: np.ndarray, bins: int) -> np.ndarray:
    """(N,) the bin of each value, from 0 on: bins of equally many, the lowest values first. Equal values share the bin
    of their middle one, so that the order of rows decides nothing; then some bins hold more, and others may be empty
    and are left out."""
    _, group, counts = np.unique(values, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - (counts + 1) / 2  # rank from 0 on of each value's middle row
    of_value = np.floor((middle + 0.5) * bins / max(len(values), 1)).astype(np.int64)
    _, dense = np.unique(np.minimum(of_value, bins - 1), return_inverse=True)
    return np.asarray(dense[group])
