"""Checkpoints by time: all ranks save after the same step, and training is the same as without them."""

import json
from pathlib import Path

import pytest
from distributed_support import run_workers
from fake_run import mini_recipe, run_data_stages
from stored_tensors import stored_bytes

from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("interval_worker.py")
STEPS = 5


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("interval")
    train = {"steps": STEPS, "ranks": 2, "log_every": 1, "keep": 100}
    for name in ("timed", "plain"):
        run_data_stages(RunDirectory.create(folder / name, mini_recipe(train=train, arms={})))
    run_workers(WORKER, folder, ranks=2)
    return folder, json.loads((folder / "found.json").read_text())


def test_every_rank_saves_when_rank_0_says_so(trained):
    _, found = trained
    assert found["timed"]["saved"] == [f"step-{step:06d}" for step in range(1, STEPS + 1)]
    assert found["plain"]["saved"] == [f"step-{STEPS:06d}"], "ten minutes have not passed"
    assert found["plain"]["interval"] == 600
    assert found["timed"]["progress"] == [STEPS, STEPS, STEPS, True]


def test_it_changes_no_bit(trained):
    folder, _ = trained
    last = f"arms/traces/train/checkpoints/step-{STEPS:06d}"
    timed, plain = (stored_bytes(folder / name / last) for name in ("timed", "plain"))
    assert {key.partition(":")[0] for key in timed} >= {"rank-00000.safetensors", "rank-00001.safetensors"}
    assert timed.keys() == plain.keys()
    assert [key for key in timed if timed[key] != plain[key]] == []
