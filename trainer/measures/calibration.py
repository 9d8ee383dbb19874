"""Does a student know what it knows? Its confidence in its answers against whether they are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.trainer.measures.spread import equal_mass, share

Row = dict[str, Any]
DRAWS = 500  # of the bootstrap of ECE
OTHERS = ("brier", "brier_constant", "auroc")


def calibration(
    confidence: np.ndarray,  # (N,) in [0, 1]
    right: np.ndarray,  # (N,) 0 or 1
    bins: int,
    seed: int = 0,
) -> Row:
    """``count``, ``ece`` with its interval, ``brier`` and its parts, and the ``table``: of each bin (``equal_mass``)
    the count, mean and range of confidence, share right and its interval.

    ECE: sum over bins of their share times |share right - mean confidence| (Naeini et al., AAAI 2015, with bins of
    equal mass); ``ece_low`` and ``ece_high`` are those of ``ece_interval``. Brier: mean of (confidence - right)^2;
    ``brier_constant`` is that of who always says the share right. ``auroc``: the chance that a right answer has more
    confidence than a wrong one; None with one kind only.
    """
    if not len(confidence):
        return {"count": 0, **dict.fromkeys(("ece", "ece_low", "ece_high", *OTHERS)), "table": []}
    bin_of = equal_mass(confidence, bins)
    table = []
    for at in range(int(bin_of.max()) + 1):
        inside, good = confidence[bin_of == at], float(right[bin_of == at].sum())
        said = {"confidence": float(inside.mean()), "least": float(inside.min()), "most": float(inside.max())}
        table.append({**said, **share(good, len(inside))})
    rate = float(right.mean())
    return {
        "count": len(confidence),
        "ece": ece_of(confidence, right, bins),
        **dict(zip(("ece_low", "ece_high"), ece_interval(confidence, right, bins, seed), strict=True)),
        "brier": float(np.square(confidence - right).mean()),
        "brier_constant": rate * (1 - rate),
        "auroc": auroc(confidence, right),
        "table": table,
    }


def ece_of(confidence: np.ndarray, right: np.ndarray, bins: int) -> float:
    """ECE as ``calibration``: a bin's share times its distance is the sum of (right - confidence) in it, over N."""
    return float(np.abs(np.bincount(equal_mass(confidence, bins), right - confidence)).sum() / len(confidence))


def ece_interval(confidence: np.ndarray, right: np.ndarray, bins: int, seed: int) -> tuple[float, float]:
    """ECE less and plus 1.96 times its standard error, by drawing the answers again (the bootstrap's normal interval),
    within 0 and 1; where all answers are right, or none, no less than Wilson's bound of that leaves open.

    It is that of the ECE of so many answers in so many bins, which is above 0 also for who knows what it knows: by
    about as much for all students that answer as many, so that they can be compared.
    """
    draw, n = np.random.default_rng(seed), len(confidence)
    drawn = [ece_of(confidence[chosen], right[chosen], bins) for chosen in draw.integers(n, size=(DRAWS, n))]
    found, half = ece_of(confidence, right, bins), 1.96 * float(np.std(drawn, ddof=1))
    half = max(half, wilson(0, n)[1]) if right.min() == right.max() else half
    return max(0.0, found - half), min(1.0, found + half)


def auroc(confidence: np.ndarray, right: np.ndarray) -> float | None:
    """Mann and Whitney's statistic over the number of pairs; ties count half."""
    good = right > 0
    pairs = int(good.sum()) * int((~good).sum())
    if not pairs:
        return None
    _, group, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    rank = np.cumsum(counts) - (counts - 1) / 2  # from 1 on, the mean among equals
    above = float(rank[group][good].sum()) - good.sum() * (good.sum() + 1) / 2
    return above / pairs
