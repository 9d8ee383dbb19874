"""A machine's rates from the cases that were measured on one of its nodes."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.ranks.cores import usable_cores
from tracestill.trainer.timing.step_time import UPDATE_BYTES, Machine

RECOMPUTED = 4 / 3  # of the FLOPs of forward and backward, where all of a student is trained and computed again
Case = Mapping[str, Any]


def calibrate(
    cases: Sequence[Case],
    inside: Mapping[str, Link],
    between: Mapping[str, Link],
    devices: int,
    again: float = RECOMPUTED,
    crowded: tuple[float, Mapping[str, Link]] | None = None,
) -> Machine:
    """The machine that explains these cases, results of ``timing.bench``; ``again`` times the FLOPs where layers are
    computed again; ``crowded``: links between ranks that share cores, and how many share one.

    The rate is that of the cases at the lowest ZeRO stage on the fullest node; what other stages need more for the
    same FLOPs is the median of cases that differ in nothing else. Cases with more ranks than cores say what crowding
    costs. The optimizer's time is split into a part that follows its elements and a fixed one where cases show both.
    """

    def flops(case: Case) -> float:
        """Of a step, all ranks', with what padding costs and what is computed again."""
        return float(case["flops_per_step"]) / (1 - case["padding"]) * (again if case["recompute"] else 1)

    here = usable_cores() if cases[0]["device"] == "cpu" else None
    fits = [c for c in cases if here is None or c["ranks"] <= here * c["nodes"]] or list(cases)
    lowest = min(c["zero"] for c in fits)
    fullest = max(c["ranks"] for c in fits if c["zero"] == lowest)
    basis = [c for c in fits if c["zero"] == lowest and c["ranks"] == fullest]
    rate = statistics.median(flops(c) / c["ranks"] / passes(c) for c in basis)
    slower = {}
    for stage in sorted({c["zero"] for c in fits}):
        pairs = [
            (passes(c) / flops(c)) / (passes(b) / flops(b))
            for c in fits
            for b in fits
            if c["zero"] == stage and b["zero"] == lowest and alike(c) == alike(b)
        ]
        if pairs:
            slower[stage] = statistics.median(pairs)
    sharing = [c for c in cases if here is not None and c not in fits and c["zero"] == lowest]
    shares = [passes(c) * here * c["nodes"] * rate / flops(c) for c in sharing if here is not None]
    update, fixed = optimizer(fits)
    data = statistics.median(c["split"]["data"] / c["accumulation"] for c in fits)
    crowding = max(1.0, statistics.median(shares)) if shares else 1.0
    more = {"cores": here, "crowding": crowding, "data": data, "fixed": fixed, "slower": slower, "crowded": crowded}
    return Machine(rate, update, inside, between, devices, **more)


def passes(case: Case) -> float:
    """Seconds of a step's forward and backward passes, without what ranks wait for."""
    return float(case["split"]["forward"] + case["split"]["backward"])


def alike(case: Case) -> tuple[Any, ...]:
    return tuple(case[key] for key in ("ranks", "nodes", "capacity", "packs_per_step", "recompute"))


def own_elements(case: Case) -> float:
    """Elements that one rank updates."""
    return float(case.get("trained_parameters", case["parameters"])) / (case["ranks"] if case["zero"] else 1)


def optimizer(cases: Sequence[Case]) -> tuple[float, float]:
    """Bytes a second, and fixed seconds a step: a line through the optimizer's times by elements, or through 0."""
    points = [(own_elements(c) * UPDATE_BYTES, float(c["split"]["optimizer"])) for c in cases]
    sizes = {size for size, _ in points}
    if len(sizes) > 1:
        fit = statistics.linear_regression(*zip(*points, strict=True))
        if fit.slope > 0 and fit.intercept >= 0:
            return 1 / fit.slope, fit.intercept
    return statistics.median(size / seconds for size, seconds in points), 0.0
