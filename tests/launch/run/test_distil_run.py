"""The ready recipe recipes/demo_topk.yaml from the command line, small: the demo's student, scored, then followed; and,
as a soak, recipes/demo_on_policy.yaml: followed on texts of the follower's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from forked_command import command

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPES = Path(__file__).parents[3] / "recipes"
SMALL = {
    "questions.train": 40, "questions.test": 4, "train.steps": 3, "train.warmup": 1, "train.ranks": 1,
    "train.log_every": 1, "train.held_out_every": 0,
}  # fmt: skip
OWN = {
    "questions.validation": 3,
    "rounds.on_policy.questions": 2,
    "rounds.on_policy.samples": 2,
    "rounds.on_policy.refresh": 1,
    "rounds.changes.train": "{steps: 2, warmup: 0, log_every: 1, lr: 1.0e-3}",
    "evaluate.max_new_tokens": 9,
}


def run(recipe: str, *more: str) -> str:
    words = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    return str(command("run", RECIPES / recipe, *words, *more, "--until", "train").output)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """Where both have run, the second with an arm of the label alone."""
    place = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run("demo.yaml", "--set", "arms={}")
        run("demo_topk.yaml", "--set", "arms={label_only: {distil: null}}")
    return place / "runs/demo_topk"


def lines(root: Path, arm: str) -> list[dict]:
    found = (root / f"arms/{arm}/train/log.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, found) if "event" not in line]


def test_arms_differ_in_their_terms_alone(root):
    followed, label = (lines(root, arm) for arm in ("traces", "label_only"))
    assert len(followed) == len(label) == 3
    first, alone = (each[0]["kinds"]["derive"] for each in (followed, label))
    assert first["loss"] == pytest.approx(alone["loss"], rel=1e-6), "one student, one step of documents"
    assert first["teacher_weight"] == pytest.approx(first["weight"], rel=1e-5), "weighed alike, half and half"
    assert first["weight"] == pytest.approx(alone["weight"] / 2, rel=1e-5)
    assert "divergence" not in alone
    assert 0 < followed[-1]["kinds"]["derive"]["divergence"] < first["divergence"]


def test_what_was_scored_is_an_input_of_the_arms_that_follow_it(root):
    found = RunDirectory.open(root)
    inputs = {arm: (read_manifest(found.stage(arm, "train")) or {})["inputs"] for arm in found.recipe.arm_names()}
    assert "score/teacher" in inputs["traces"]
    assert "score/teacher" not in inputs["label_only"]
    preview = json.loads((root / "arms/traces/train/preview.json").read_text())
    by_kind = {row["kind"]: row for row in preview["kinds"]}
    assert by_kind["derive"]["teacher_tokens"] == by_kind["derive"]["tokens"]
    assert by_kind["prompt"]["teacher_tokens"] == 0
    assert not [line for line in preview["warnings"] if "template" in line or "distil" in line]


@pytest.mark.soak
def test_a_student_follows_on_texts_of_its_own(root, monkeypatch):
    monkeypatch.chdir(root.parents[1])
    words = [word for key, value in (SMALL | OWN).items() for word in ("--set", f"{key}={value}")]
    said = " ".join(str(command("rounds", RECIPES / "demo_on_policy.yaml", *words).output).split())
    place = root.parent / "demo_on_policy"
    result = json.loads((place / "rounds.json").read_text())
    assert [row["trained"] for row in result["rounds"]] == [True, True]
    later = result["rounds"][1]
    assert (later["first_texts"]["refresh"], later["traces"]["refresh"]) == (0, 1)
    assert later["first_texts"]["traces"] == later["traces"]["traces"] == 4
    assert later["traces"]["gone"]["of"] > 0, "beside round 0's traces"
    assert {"variations", "tasks"} <= later.keys(), "as the recipe asks; it answers nothing, so no votes"
    told = later["own_texts"]
    assert told["in"] == told["out"] == 8
    assert len(lines(place / "rounds/1", "traces")) == 2
    assert "8 of 8 texts of its own in 2 refreshes" in said
    assert re.search(r"time: teacher \d+%, training \d+%, writing \d+%", said)
