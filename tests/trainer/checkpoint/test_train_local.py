"""Whole trainings on two hosts that share no file system, as two ranks with a run directory each."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from distributed_support import run_workers
from fake_run import RECIPE, mini_recipe, run_data_stages
from mini_training import losses

from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("train_local_worker.py")
TRAIN = {
    **{"steps": 4, "ranks": 2, "log_every": 1, "checkpoint_every": 1, "lr": 1e-2, "ema": 0.5},
    **{"held_out_every": 2, "held_out_questions": 3, "metric": "answer.loss", "export": "best"},
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    how: dict[str, Any] = {"questions": {**RECIPE["questions"], "validation": 3}, "arms": {}}  # type: ignore[dict-item]
    how["evaluate"] = {"max_new_tokens": 24}
    run_data_stages(RunDirectory.create(root / "shared", mini_recipe(train=TRAIN, **how)))
    for rank in (0, 1):
        shutil.copytree(root / "shared", root / f"host-{rank}")
        local = mini_recipe(train={**TRAIN, "local_checkpoints": True}, **how)
        RunDirectory.create(root / f"host-{rank}", local)  # not --replace: the key changes no result
    return root


@pytest.fixture(scope="module")
def root(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = shutil.copytree(prepared, tmp_path_factory.mktemp("apart") / "root")
    (root / "printed").write_text(run_workers(WORKER, root, "whole", ranks=2))
    return root


@pytest.fixture(scope="module")
def found(root: Path) -> dict[str, Any]:
    return json.loads((root / "found.json").read_text())


def test_stopped_and_gone_on_with_it_is_the_training_of_a_shared_disk(root, found):
    assert (found["shared"], found["stopped"], found["finished"]) == ([0, 0], [3, 3], [0, 0])
    assert found["stopped_at"] == [["step-000001"]] * 2
    assert found["losses"] == losses(root / "shared")
    assert len(found["losses"]) == 4
    manifests = [
        json.loads((root / name / "arms/traces/train/manifest.json").read_text()) for name in ("shared", "host-0")
    ]
    exports = [{k: v for k, v in one["files"].items() if k.endswith(".safetensors")} for one in manifests]
    assert exports[0] == exports[1] != {}
    assert manifests[0]["best"] == manifests[1]["best"]


def test_other_hosts_hold_checkpoints_only(found):
    first, second = found["files"]
    assert {"export", "log.jsonl", "manifest.json", "checkpoints"} <= set(first)
    assert second == ["checkpoints", "failures"], "the traceback of a refusal; failure.json of an earlier one is gone"
    assert found["kept"][0] == found["kept"][1]


def test_what_is_unfinished_is_refused_by_all(root, found):
    assert found["unfinished"] == [2, 2]
    assert "holds unfinished training" in (root / "printed").read_text()


def test_a_finished_training_is_up_to_date_for_all_ranks(root, found):
    assert found["again"] == [0, 0]
    assert (root / "printed").read_text().count("training of traces is up to date") == 2


def test_a_host_with_another_recipe_is_named(root, found):
    assert found["other recipe"] == [2, 2]
    assert "(rank 1) has another recipe or other data than" in (root / "printed").read_text()


def test_hosts_that_differ_in_the_key_are_refused_by_all(root, found):
    assert found["other key"] == [2, 2]
    assert (root / "printed").read_text().count("error: train.local_checkpoints is true on ") == 2


def test_a_failure_on_a_host_whose_disk_rank_0_cannot_see_is_told_there(prepared, tmp_path):
    root = shutil.copytree(prepared, tmp_path / "root")
    run_workers(WORKER, root, "raises", ranks=2, fails=True)
    for host in ("host-0", "host-1"):
        alarm = json.loads((root / host / "arms/traces/train/failure.json").read_text())
        assert (alarm["rank"], alarm["by"], alarm["code"]) == (1, 1, 4), host
        assert alarm["reason"] == "raised ZeroDivisionError: division by zero"
        assert "in boom" in alarm["traceback"]
    folders = [root / host / "arms/traces/train/failures" for host in ("host-0", "host-1")]
    assert [sorted(path.name for path in folder.glob("rank-*")) for folder in folders] == [[], ["rank-00001.txt"]]
