"""Whole trainings on two ranks that share their rows: the same numbers as apart, and on from their checkpoint."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from distributed_support import run_workers
from fake_run import STUDENT, mini_recipe, run_data_stages

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("shared_rows_worker.py")


def recipe(parts: int) -> Recipe:
    return mini_recipe(
        student={"config": {**STUDENT, "num_hidden_layers": 2}, "activation_checkpointing": parts > 1},
        weighting={"use": "random_drop", "options": {"keep": 0.8}},  # its sums are all-reduced
        plan={"capacity": 256, "packs_per_step": 3},
        train={
            **{"steps": 6, "ranks": 2, "lr": 1e-3, "log_every": 1, "held_out_every": 3, "zero": 3},
            **{"sequence_parallel": parts, "tiled_mlp": 2 if parts > 1 else False},
        },
        arms={},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("shared-rows")
    run_data_stages(RunDirectory.create(root / "apart", recipe(1)))
    shutil.copytree(root / "apart", root / "shared")
    RunDirectory.create(root / "shared", recipe(2), replace=True)
    run_workers(WORKER, root, ranks=2, timeout=150)
    return root, json.loads((root / "found.json").read_text())


def lines(root: Path, name: str) -> list[dict[str, Any]]:
    path = root / name / "arms/traces/train/log.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_were_shared_and_the_training_went_on_without(trained):
    _, found = trained
    assert found["mesh"] == [2, 1, 3], "two ranks to a row, one reader, so three micro-steps"
    assert all(length % 128 == 0 for length in found["rows"])
    assert (found["apart"], found["shared"], found["resumed_at"], found["after"]) == (True, False, 3, [1, True])


def test_the_numbers_are_those_of_ranks_that_share_none(trained):
    root, _ = trained
    apart, shared = (
        [line for line in lines(root, name) if "step" in line and "loss" in line] for name in ("apart", "shared")
    )
    assert [line["step"] for line in shared] == [line["step"] for line in apart] == [1, 2, 3, 4, 5, 6]
    assert shared[0]["loss"] == pytest.approx(apart[0]["loss"], rel=1e-6)
    assert shared[0]["grad_norm"] == pytest.approx(apart[0]["grad_norm"], rel=2e-6)
    for one, other in zip(shared, apart, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-4)
        assert (one["tokens"], one["weighted_tokens"]) == (other["tokens"], other["weighted_tokens"])
        for kind, numbers in one["kinds"].items():
            assert numbers["count"] == other["kinds"][kind]["count"]
            assert numbers["weight"] == pytest.approx(other["kinds"][kind]["weight"], rel=1e-5)


def test_the_preview_and_held_out_documents_too(trained):
    root, _ = trained
    previews = [
        json.loads((root / name / "arms/traces/train/preview.json").read_text()) for name in ("apart", "shared")
    ]
    for one, other in zip(*(preview["kinds"] for preview in previews), strict=True):
        assert one["loss_share"] == pytest.approx(other["loss_share"], rel=1e-4, abs=1e-7)
    apart, shared = (
        {line["step"]: line["kinds"] for line in lines(root, name) if line.get("event") == "held_out"}
        for name in ("apart", "shared")
    )
    assert apart.keys() == shared.keys() == {0, 3, 6}
    for kind, numbers in apart[0].items():
        assert shared[0][kind]["count"] == numbers["count"]
        assert shared[0][kind]["loss"] == pytest.approx(numbers["loss"], rel=1e-6)


def test_it_is_finished(trained):
    root, _ = trained
    counts = [read_manifest(root / name / "arms/traces/train")["counts"] for name in ("apart", "shared")]
    assert counts[0] == counts[1]
    assert counts[0]["steps"] == 6
