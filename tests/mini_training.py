"""A training of two ranks that is over in seconds, or never, and what it has logged so far."""

from __future__ import annotations

import json
from pathlib import Path

from fake_run import mini_recipe, run_data_stages

from tracestill.trainer.recipe import Recipe
from tracestill.trainer.run_directory import RunDirectory

TRAIN = "arms/traces/train"
ENDLESS = 8000  # steps: minutes, and planned in a moment


def recipe_of(steps: int) -> Recipe:
    return mini_recipe(arms={}, train={"steps": steps, "zero": 2, "log_every": 1, "warmup": 1, "ranks": 2})


def make_run(root: Path, steps: int = 4) -> Path:
    """A run whose data is ready."""
    run_data_stages(RunDirectory.create(root, recipe_of(steps)))
    return root


def losses(run: Path) -> list[float]:
    """One a step; none while nothing has begun."""
    path = run / TRAIN / "log.jsonl"
    if not path.exists():
        return []
    lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [line["loss"] for line in lines if "event" not in line and "loss" in line]
