"""One rank of the stage score fails: all ranks say so, none waits for another, and what is written is gone on with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distributed_support import run_workers
from fake_run import mini_recipe, run_data_stages

from tracestill.trainer.recipe.run_directory import RunDirectory

PARTITIONED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
SCORERS = {
    "whole": {"model": "student", "channels": ["nll"]},
    "parts": {"model": "student", "channels": ["nll"], "zero": 3},
}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    root = tmp_path_factory.mktemp("failing")
    run = RunDirectory.create(root / "run", mini_recipe(arms={}, score=SCORERS, deepspeed=PARTITIONED))
    run_data_stages(run)
    ways = ("whole:opens", "whole:writes", "parts:writes", "whole:fine", "parts:fine")
    worker = Path(__file__).with_name("failing_worker.py")
    run_workers(worker, root / "said.json", *(f"{run.root}:{way}" for way in ways), ranks=2, timeout=400)
    return json.loads((root / "said.json").read_text())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("whole:opens", "score.whole: cannot be opened (rank 1: no such luck)"),
        ("whole:writes", "score.whole: cannot score the documents (rank 1: no such luck)"),
        ("parts:writes", "score.parts: cannot score the documents (rank 1: no such luck)"),
    ],
)
def test_all_ranks_end_with_the_error_of_the_one_that_failed(found, how, said):
    assert found[how]["said"] == [said] * 2


@pytest.mark.parametrize("scorer", SCORERS)
def test_the_other_leaves_its_work_and_goes_on_with_it_when_both_come_again(found, scorer):
    first, again = (found[f"{scorer}:{how}"]["written"] for how in ("writes", "fine"))
    assert found[f"{scorer}:fine"]["said"] == ["nothing"] * 2
    assert first[0] <= 2 < sum(again)
    assert abs(again[0] - again[1]) <= 1, "they share what is missing"
