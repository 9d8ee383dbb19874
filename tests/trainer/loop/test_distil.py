"""Whole trainings with a teacher's term: the proof at the start, the log, resuming, and what is up to date."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from distributed_support import run_workers
from fake_run import mini_recipe, report, run_data_stages
from rich.console import Console
from same_training import assert_same, outcome
from teacher_cases import write_channel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_run import Shown, inspect_run
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.recipe.run_directory import RunDirectory

WORKER = Path(__file__).with_name("distil_worker.py")
STEPS = 3
RECIPE = {
    "score": {"teacher": {"model": "there", "channels": ["topk"], "k": 5}},
    "weighting": {"weights": {"prompt": 0, "plan": 0}},
    "distil": {
        "channel": "teacher.topk",
        "divergence": "jsd",
        "weight": {"trace": 2, "answer": 0, "prompt": 0},
        "mix": {"from": 0.25, "to": 0.5, "steps": 2},
    },
    "train": {"steps": STEPS, "ranks": 2, "zero": 2, "log_every": 1, "checkpoint_every": 1, "lr": 1e-2},
    "arms": {},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    place = tmp_path_factory.mktemp("distil")
    made = tmp_path_factory.mktemp("model")
    recipe = mini_recipe(**{**RECIPE, "score": {"teacher": {**RECIPE["score"]["teacher"], "model": str(made)}}})
    run = RunDirectory.create(place / "plain", recipe)
    run_data_stages(run)
    encode = run.stage("traces", "encode")
    store = TokenStore(encode / "tokens.arrow", recipe.span_kinds())
    vocabulary = (read_manifest(encode) or {})["vocab_size"]
    write_channel(run.scores("traces")["teacher"], store, vocabulary, *run.score_stage("traces", "teacher"))
    shutil.copytree(place / "plain", place / "stopped")
    run_workers(WORKER, place, ranks=2)
    return place


def lines(root, name="plain"):
    found = (root / name / "arms/traces/train/log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, found) if "event" not in line]


def test_the_log_tells_both_terms_by_kind(root):
    for line in lines(root):
        kinds = line["kinds"]
        assert sum(row["share"] + row.get("teacher_share", 0) for row in kinds.values()) == pytest.approx(1)
        assert kinds["plan"]["weight"] == 0 < kinds["plan"]["teacher_weight"], "a label's 0 is not the teacher's"
        assert kinds["plan"]["loss"] > 0, "of a sample"
        assert kinds["answer"]["weight"] > 0
        assert "divergence" not in kinds["answer"], "the teacher's 0 is not the label's"
        assert "divergence" not in kinds["prompt"]
        assert 0 < kinds["derive" if "derive" in kinds else "plan"].get("divergence", 1) < np.log(2)
    weights = [sum(row["weight"] for row in line["kinds"].values()) for line in lines(root)]
    of_teacher = [sum(row.get("teacher_weight", 0) for row in line["kinds"].values()) for line in lines(root)]
    assert weights == pytest.approx([0.75, 0.625, 0.5], rel=1e-6), "1 - mix of each step"
    assert of_teacher == pytest.approx([0.25, 0.375, 0.5], rel=1e-6)


def test_stopped_and_gone_on_with_it_ends_bit_for_bit_the_same(root):
    assert_same(outcome(root / "plain", STEPS), outcome(root / "stopped", STEPS), STEPS)


def test_the_proof_shows_the_share_of_both_terms(root):
    found = json.loads((root / "plain/arms/traces/train/preview.json").read_text())
    rows = {row["kind"]: row for row in found["kinds"]}
    first = lines(root)[0]["kinds"]
    for name, row in rows.items():
        assert row["loss_share"] == pytest.approx(first[name]["share"], abs=1e-6), name
        assert row["teacher_share"] == pytest.approx(first[name].get("teacher_share", 0.0), abs=1e-6), name
        assert row["teacher_tokens"] == first[name].get("teacher_count", 0), name
    assert (rows["answer"]["teacher_weight"], rows["plan"]["teacher_weight"]) == (0.0, 2.0)
    assert 0.6 < rows["plan"]["teacher_tokens"] / rows["plan"]["tokens"] < 1, "a fifth has no entry"
    assert not any("distil" in line for line in found["warnings"])


def test_inspect_and_the_report_show_it(root):
    run = RunDirectory.open(root / "plain")
    console = Console(file=io.StringIO(), width=160)
    inspect_run(run, "traces", Shown(), console)
    said = console.file.getvalue()
    assert "its share of loss" in said
    assert "teacher's weight" in said
    row = next(line.split() for line in said.splitlines() if line.startswith("plan "))
    assert row[3:5] == ["0.0%", "2"], "share of weight, the teacher's weight"
    assert 0 < int(row[5]) <= int(row[1])
    report(run)
    page = (run.root / "report" / "report.html").read_text()
    assert "its share of loss" in page
    assert "divergence of plan" in page


def test_training_reads_the_channel_and_is_due_again_with_another_term(root):
    run = RunDirectory.open(root / "plain")
    config, inputs = run.train_stage("traces")
    assert inputs["score/teacher"] == run.scores("traces")["teacher"]
    assert config["distil"]["divergence"] == "jsd"
    plain = RunDirectory(run.root, run.recipe.model_copy(update={"distil": None})).train_stage("traces")
    assert "distil" not in plain[0]
    assert set(inputs) - set(plain[1]) == {"score/teacher"}


def test_a_scorer_that_has_not_run_is_named(root, tmp_path):
    shutil.copytree(root / "plain", tmp_path / "run", ignore=shutil.ignore_patterns("score", "train"))
    with pytest.raises(InputError, match="teacher: holds no channels; run `tracestill score` first"):
        prepare(RunDirectory.open(tmp_path / "run"), "traces")
