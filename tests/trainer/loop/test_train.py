"""Whole trainings on two ranks: stopped and resumed, with faulty steps, and choosing a checkpoint by a metric."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from distributed_support import run_workers
from fake_run import RECIPE, mini_recipe, run_data_stages
from safetensors.torch import load_file
from stored_tensors import stored_bytes, stored_tensors

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.plan.plan import load_plan, schedule
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.evaluation.evaluate import held_out, predict
from tracestill.trainer.evaluation.predictions import summary
from tracestill.trainer.losses.losses import load_student, teacher_forced
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("train_worker.py")
STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "attention_dropout": 0.1,
}
LENGTHS = {
    "plain": {"steps": 8, "log_every": 1, "ema": 0.5, "held_out_every": 4, "held_out_questions": 3},
    "stopped": {"steps": 8, "log_every": 1, "ema": 0.5, "stop_after": "50m"},
    "faulty": {"steps": 8, "log_every": 1, "skip_limit": 3},
    "bare": {"steps": 3, "log_every": 2, "keep": 0, "checkpoint_every": 1},
    "full": {"steps": 8, "log_every": 1, "checkpoint_every": 2},
    "chosen": {
        "steps": 20,
        "held_out_every": 1,
        "metric": "answer.loss",
        "patience": 3,
        "keep": 1,
        "ema": 0.5,
        "export": "best",
    },
}


def recipe(train: dict[str, Any]) -> Recipe:
    questions = {**RECIPE["questions"], "validation": 3}  # type: ignore[dict-item]
    return mini_recipe(
        questions=questions,
        student={"config": STUDENT},
        weighting={"use": "random_drop", "options": {"keep": 0.8}},  # its sums are all-reduced, one step ahead
        train={**train, "ranks": 2, "lr": 1e-2},
        evaluate={"max_new_tokens": 24},
        arms={},
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Directory of the runs, and what the worker found."""
    root = tmp_path_factory.mktemp("trained")
    run_data_stages(RunDirectory.create(root / "plain", recipe(LENGTHS["plain"])))
    for name, train in LENGTHS.items():
        if name != "plain":
            shutil.copytree(root / "plain", root / name)
            RunDirectory.create(root / name, recipe(train), replace=True)
    run_workers(WORKER, root, ranks=2, timeout=100)
    return root, json.loads((root / "found.json").read_text())


def train_directory(root: Path, name: str) -> Path:
    return root / name / "arms/traces/train"


def log(root: Path, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (train_directory(root, name) / "log.jsonl").read_text().splitlines()]


def test_a_signal_to_one_rank_stops_all_after_the_same_step(trained):
    found = trained[1]["stopped"]
    assert found["stopped"] == [True, 3]
    assert (found["marker"]["step"], found["marker"]["steps"]) == (3, 8)
    assert "SIGTERM" in found["marker"]["reason"]
    assert found["resumed_at"] == 3
    assert found["cleared"], "the marker is gone once training goes on"
    assert "holds unfinished training; pass --resume auto" in found["refused"]


def test_the_time_limit_stops_too(trained):
    assert trained[1]["stopped"]["in_time"] == [True, 4]


def test_stopped_twice_it_ends_bit_for_bit_like_the_uninterrupted_run(trained):
    """The uninterrupted one was measured on held-out documents and questions, too, which leaves no trace."""
    root, found = trained
    assert found["plain"]["complete"]
    assert found["stopped"]["complete"]
    plain, stopped = (train_directory(root, name) / "checkpoints/step-000008" for name in ("plain", "stopped"))
    assert stored_bytes(plain) == stored_bytes(stopped)
    lines = [[(line["step"], line["loss"]) for line in log(root, name) if "loss" in line] for name in LENGTHS][:2]
    assert lines[0] == lines[1]
    assert [step for step, _ in lines[0]] == [*range(1, 9)]


def test_each_step_is_made_while_the_one_before_is_computed(trained):
    made = trained[1]["plain"]["made"]  # [steps done, step]
    assert made == [[0, 0], *([done, done + 1] for done in range(7))]


def test_what_is_measured_is_what_is_exported(trained):
    root, _ = trained
    run = RunDirectory.open(root / "plain")
    student = load_student(train_directory(root, "plain") / "export", run.recipe, torch.device("cpu"))
    validation = TokenStore(run.stage("traces", "encode") / "validation.arrow")
    expected = teacher_forced(student, validation, torch.device("cpu"))
    last = [line for line in log(root, "plain") if line.get("event") == "held_out"][-1]
    assert last["step"] == 8
    assert {kind: row["count"] for kind, row in last["kinds"].items()} == {k: r["count"] for k, r in expected.items()}
    for kind, row in expected.items():
        assert last["kinds"][kind]["loss"] == pytest.approx(row["loss"], rel=1e-5), kind


def test_questions_are_answered_by_what_is_exported(trained):
    root, _ = trained
    run = RunDirectory.open(root / "plain")
    questions = held_out(run.stage("traces", "sample") / "questions.parquet", 3, "validation")
    export = train_directory(root, "plain") / "export"
    rows = predict(run.recipe, questions, export, torch.device("cpu"), lambda done, total: None)
    answers = [line for line in log(root, "plain") if line.get("event") == "answers"]
    assert [line["step"] for line in answers] == [0, 4, 8]
    assert {(line["split"], line["count"]) for line in answers} == {("validation", 3)}
    found = summary(rows)
    names = ("accuracy", "truncated", "trace_tokens_mean")
    assert [answers[-1][name] for name in names] == pytest.approx([found[name] for name in names])
    assert found["trace_tokens_mean"] > 0
    assert not (train_directory(root, "plain") / "asked").exists()


def test_faulty_steps_are_named_with_all_ranks_documents(trained):
    root, _ = trained
    skipped = [line for line in log(root, "faulty") if line.get("event") == "skipped"]
    assert [line["step"] for line in skipped] == [2, 4, 5, 6]
    assert {line["reason"] for line in skipped} == {"gradient is not finite"}
    plan = load_plan(root / "faulty/arms/traces/plan/epoch-000")
    store = TokenStore(root / "faulty/arms/traces/encode/tokens.arrow")
    packs = [int(pack) for pack in schedule(plan, 1, 1).ravel() if pack >= 0]
    assert len(packs) == 2, "one of each rank"
    assert sorted(skipped[0]["documents"]) == sorted(store.ids[d] for pack in packs for d in plan.pack(pack))
    assert all(math.isfinite(line["loss"]) for line in log(root, "faulty") if "loss" in line)
    assert [line["step"] for line in log(root, "faulty") if "loss" in line] == [1, 3]


def test_training_gives_up_after_too_many_in_a_row(trained):
    found = trained[1]["faulty"]
    assert found["step"] == 6, "the single one before did not count"
    assert "gave up at step 6: 3 steps in a row were skipped (train.skip_limit)" in found["said"]
    assert "log.jsonl" in found["said"]
    assert "\n" not in found["said"]


def test_a_save_that_failed_ends_training_on_all_ranks_after_the_same_step(trained):
    root, found = trained
    assert [rank["step"] for rank in found["full"]["ranks"]] == [5, 5], "the next save would be after 6"
    checkpoints = train_directory(root, "full") / "checkpoints"
    for rank in found["full"]["ranks"]:
        words = r"cannot write the checkpoint \(rank 1: .*No space left on device\); make room .*"
        assert re.fullmatch(rf"{checkpoints}/tmp-000004-\w+: {words}", rank["said"])
    assert [path.name for path in checkpoints.iterdir()] == ["step-000002"]


def test_keep_0_leaves_no_checkpoint_once_exported(trained):
    root, found = trained
    directory = train_directory(root, "bare")
    assert found["bare"]["saved"], "training could go on from one until then"
    assert not (directory / "checkpoints").exists()
    assert (directory / "manifest.json").exists()
    assert (directory / "export/model.safetensors").exists()


def test_the_time_of_a_line_of_the_log_belongs_to_no_part_of_a_step(trained):
    _, found = trained
    heard = [tuple(pair) for pair in found["bare"]["phases"]]
    lines = [index for index, (name, _) in enumerate(heard) if name == "log"]
    assert [heard[index] for index in lines] == [("log", 2), ("log", 3)], "every second step, and the last one"
    assert [heard[index - 1] for index in lines] == [("communication", 1), ("communication", 2)]


def test_patience_ends_training_and_is_restored(trained):
    root, found = trained
    assert found["chosen"] == {"stopped": True, "waited": 1, "complete": True, "steps": 7, "ended": 7}
    held_out = [line for line in log(root, "chosen") if line.get("event") == "held_out"]
    assert [line["step"] for line in held_out] == [*range(8)]
    assert {line["split"] for line in held_out} == {"validation"}


def test_the_best_checkpoint_stays_and_is_exported(trained):
    root, _ = trained
    directory = train_directory(root, "chosen")
    assert sorted(path.name for path in (directory / "checkpoints").iterdir()) == ["step-000004", "step-000007"]
    best, last = (stored_tensors(directory / f"checkpoints/step-00000{step}") for step in (4, 7))
    export = load_file(directory / "export/model.safetensors")
    for name, tensor in export.items():
        assert tensor.equal(best[f"average/model.{name}"]), name
    for other in (best, last):
        assert any(not tensor.equal(other[f"parameter/model.{name}"]) for name, tensor in export.items())
    assert any(not tensor.equal(last[f"average/model.{name}"]) for name, tensor in export.items())
    manifest = read_manifest(directory)
    assert manifest["counts"] == {"steps": 7, "ranks": 2, "exported_step": 4}
    assert (manifest["best"]["step"], manifest["best"]["value"]) == (4, 3.0)
