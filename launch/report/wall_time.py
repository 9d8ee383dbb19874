"""Seconds that all attempts of a training took, launcher and imports included."""

from __future__ import annotations

import json
from pathlib import Path

from tracestill.data_pipeline.base.stage import write_json

TIMES = "launch.json"  # the ranks delete it when they begin anew


def add_seconds(directory: Path, seconds: float) -> None:
    """Add what an attempt took to what its predecessors did."""
    if directory.is_dir():
        write_json(directory / TIMES, {"seconds": round((wall_seconds(directory) or 0.0) + seconds, 3)})


def wall_seconds(directory: Path) -> float | None:
    """Seconds that the attempts of a training took, launcher and imports included; None if that was not measured."""
    try:
        return float(json.loads((directory / TIMES).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
