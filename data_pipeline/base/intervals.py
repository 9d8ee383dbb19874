"""How far a share may be from what it was drawn from: intervals, so that nobody reads noise."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

Z95 = 1.959963984540054  # half of the 95 % of a normal distribution lies within it


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22, 1927); the default z gives 95 %."""
    share = successes / trials
    middle = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    return max(0.0, middle - half), min(1.0, middle + half)


def clustered(successes: np.ndarray, trials: np.ndarray, most: float | None = None) -> tuple[float, float, float]:
    """A share with its 95 % interval, of trials that come in clusters: samples of one question are not independent.

    ``successes`` (may be fractions) and ``trials`` > 0 are by cluster, (Q,) each. Wilson's interval with as many trials
    as would give the spread that is seen between clusters (Korn and Graubard, Survey Methodology 24, 1998), ``most`` of
    them (the sum of trials); where no spread is seen, as many as there are clusters.
    """
    clusters, total = len(trials), float(trials.sum())
    share = min(max(float(successes.sum()) / total, 0.0), 1.0)
    spread = float(((successes - share * trials) ** 2).sum())
    variance = spread * clusters / max(clusters - 1, 1) / total**2
    alone = share * (1 - share)
    effective = alone / variance if variance > 1e-12 * max(alone, 1e-12) and alone > 0 else clusters
    low, high = wilson(share * (held := min(effective, total if most is None else most)), held)
    return share, low, high


def z_of(comparisons: int, level: float = 0.05) -> float:
    """z of two-sided intervals of which, among so many, one misses with probability ``level`` at most (Bonferroni)."""
    return NormalDist().inv_cdf(1 - level / (2 * max(comparisons, 1)))
