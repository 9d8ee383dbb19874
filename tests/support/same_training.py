"""Two trainings that should be the same one, bit for bit: made ready, and compared by what they leave."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import yaml
from fake_run import RECIPE, run_data_stages
from stored_tensors import stored_bytes

from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

STUDENT = {**RECIPE["student"]["config"], "attention_dropout": 0.1}  # type: ignore[index]
PLAN = {  # hard questions twice as often as they are, easy ones first: epochs of other documents and other steps
    **RECIPE["plan"],  # type: ignore[dict-item]
    "mixture": {"parts": {"hard": {"share": 2, "where": {"difficulty": {"min": 0.3}}}, "rest": {"share": 1}}},
    "order": "difficulty",
}
Outcome = tuple[list[tuple[int, float, float]], dict[str, bytes]]


def prepared(root: Path, steps: int, *names: str) -> list[Path]:
    """Runs of these names that are ready to train on two ranks, with a checkpoint every second step."""
    train = {"steps": steps, "ranks": 2, "log_every": 1, "checkpoint_every": 2}
    recipe: dict[str, Any] = {**RECIPE, "student": {"config": STUDENT}, "plan": PLAN, "train": train, "arms": {}}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    run_data_stages(RunDirectory.create(root / names[0], load_recipe(root / "recipe.yaml")))
    return [root / names[0], *(Path(shutil.copytree(root / names[0], root / name)) for name in names[1:])]


def outcome(run: Path, steps: int) -> Outcome:
    """Step, loss and gradient norm of every line of the log; everything in the last checkpoint, as bytes."""
    directory = run / "arms/traces/train"
    lines = map(json.loads, (directory / "log.jsonl").read_text().splitlines())
    log = [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]
    tensors = stored_bytes(directory / "checkpoints" / f"step-{steps:06d}")
    return log, tensors


def assert_same(undisturbed: Outcome, other: Outcome, steps: int) -> None:
    (log, tensors), (log_after, tensors_after) = undisturbed, other
    assert [step for step, *_ in log] == [*range(1, steps + 1)]
    assert log_after == log
    assert any(": parameter/" in name for name in tensors)
    assert tensors_after.keys() == tensors.keys()
    assert [name for name in tensors if tensors[name] != tensors_after[name]] == []
