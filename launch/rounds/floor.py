"""The floor under rare strategies: what a student still writes of them weighs more, so that it is not lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.rounds.config import RoundsConfig
from tracestill.data_pipeline.rounds.figures import accepted
from tracestill.data_pipeline.rounds.strategies import rare_ones, strategy
from tracestill.data_pipeline.soundness.equations import equations

MOST = 10.0  # weight of one trace


def weights(rows: Sequence[dict[str, Any]], settings: RoundsConfig, sample: Path, select: Path) -> list[float]:
    """Of each of a student's traces: 1, or of accepted ones of a strategy that is rare in round 0 what lifts these to
    ``settings.floor`` of the weight of all accepted ones. ``sample`` and ``select`` are round 0's."""
    if not settings.floor:
        return [1.0] * len(rows)
    rare = rare_ones((each.strategy for each in accepted(sample, select)), settings.rare)
    of_rare = [row["accepted"] and strategy(row["question"], equations(row["reasoning"])) in rare for row in rows]
    few, others = sum(of_rare), sum(row["accepted"] for row in rows) - sum(of_rare)
    lift = lifted(few, others, settings.floor)
    return [lift if is_rare else 1.0 for is_rare in of_rare]


def lifted(few: int, others: int, floor: float) -> float:
    """The weight w of each of ``few`` traces beside ``others`` of weight 1: few w / (few w + others) = floor, at least
    1 and at most ``MOST``."""
    return min(MOST, max(1.0, floor / (1 - floor) * others / few)) if few else 1.0
