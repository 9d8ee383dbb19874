"""Does a student know what it knows? Its confidence in its answers against whether they are right."""

from __future__ import annotations

from typing import Any

import numpy as np

from tracestill.trainer.measures.spread import equal_mass, share

Row = dict[str, Any]


def calibration(
    confidence: np.ndarray,  # (N,) in [0, 1]
    right: np.ndarray,  # (N,) 0 or 1
    bins: int,
) -> Row:
    """``count``, ``ece``, ``brier`` and its parts, and the ``table``: of each bin (``equal_mass``) the count, mean and
    range of confidence, share right and its interval.

    ECE: sum over bins of their share times |share right - mean confidence| (Naeini et al., AAAI 2015, with bins of
    equal mass). Brier: mean of (confidence - right)^2; ``brier_constant`` is that of who always says the share right.
    ``auroc``: the chance that a right answer has more confidence than a wrong one; None with one kind only.
    """
    if not len(confidence):
        return {"count": 0, "ece": None, "brier": None, "brier_constant": None, "auroc": None, "table": []}
    bin_of = equal_mass(confidence, bins)
    table = []
    for at in range(int(bin_of.max()) + 1):
        inside, good = confidence[bin_of == at], float(right[bin_of == at].sum())
        said = {"confidence": float(inside.mean()), "least": float(inside.min()), "most": float(inside.max())}
        table.append({**said, **share(good, len(inside))})
    rate = float(right.mean())
    return {
        "count": len(confidence),
        "ece": sum(row["count"] * abs(row["share"] - row["confidence"]) for row in table) / len(confidence),
        "brier": float(np.square(confidence - right).mean()),
        "brier_constant": rate * (1 - rate),
        "auroc": auroc(confidence, right),
        "table": table,
    }


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
