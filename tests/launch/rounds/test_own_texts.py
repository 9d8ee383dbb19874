"""Rounds of a student that goes on with texts of its own: what each is as a recipe, their order, how they end."""

from __future__ import annotations

import pytest
from fake_run import build
from rounds_support import begin, fake, recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import Stage, identity, write_manifest
from tracestill.launch.report.rounds_page import rounds as page_of
from tracestill.launch.rounds.recipes import recipe_of
from tracestill.launch.rounds.show import ending
from tracestill.launch.run import student_stages
from tracestill.launch.run.student_stages import by_own_texts

OWN = {"teacher": "none", "questions": 4, "refresh": 2}
ROUNDS = {"kind": "on_policy", "count": 2, "samples": 4, "on_policy": OWN, "changes": {"train": {"steps": 6}}}
TOLD = {
    **{"refreshes": 3, "in": 24, "out": 23, "right": 5, "cut_off": 2, "tokens": 99, "rejected": {"overlong": 1}},
    **{"right_first": 0.25, "right_last": 0.5, "time": {"writing": 0.5, "teacher": 0.1, "training": 0.4}},
    "ended": None,
}


def changed(changes):
    return recipe({**ROUNDS, "changes": changes})


def test_a_later_round_goes_on_with_the_student_of_the_one_before(tmp_path):
    asked = recipe(ROUNDS, train={"epochs": 2, "ranks": 1, "lr": 1e-2})
    first, found = (recipe_of(tmp_path, asked, number) for number in (0, 2))
    assert first.train.on_policy is None
    assert (found.train.steps, found.train.epochs, found.train.lr) == (6, None, 1e-2)
    assert found.train.on_policy == asked.rounds.on_policy
    assert found.student.pretrained == tmp_path / "rounds/1/arms/traces/train/export"
    assert found.encode.tokenizer.path == tmp_path / "rounds/0/tokenizer"
    assert found.rounds is None
    assert found.sample == first.sample


def test_a_later_round_has_its_teacher_where_the_recipe_says(tmp_path):
    for teacher in ({"model": "there", "zero": 3}, {"model": "large", "server": {"url": "http://localhost:8000/v1"}}):
        found = recipe_of(tmp_path, recipe({**ROUNDS, "on_policy": {**OWN, "teacher": teacher}}), 1)
        held = found.train.on_policy.teacher.model_dump(exclude_defaults=True)
        assert held == teacher


@pytest.mark.parametrize(
    ("said", "rounds"),
    [
        ("on_policy and kind: on_policy belong together", {"kind": "rejection", "on_policy": OWN}),
        ("changes: is for kind: on_policy", {"kind": "rejection", "changes": {"train": {}}}),
        ("floor: is for rounds of traces", {**ROUNDS, "floor": 0.5}),
        ("teacher: is for rounds of traces", {**ROUNDS, "teacher": "mixture"}),
        ("stop.coverage: is for rounds of traces", {**ROUNDS, "stop": {"coverage": 0.5}}),
        ("stop.differ: is for rounds of traces", {**ROUNDS, "stop": {"differ": 0.5}}),
        ("stop.coverage: .* rounds.on_policy.stop.length a training", {**ROUNDS, "stop": {"coverage": 0.2}}),
    ],
)
def test_keys_of_another_kind_of_rounds_are_refused(said, rounds):
    with pytest.raises(InputError, match=f"rounds: {said}"):
        recipe(rounds)


def test_no_bound_of_coverage_is_recorded_and_one_that_was_is_read(tmp_path):
    asked = recipe({**ROUNDS, "stop": {"accuracy": False}})
    assert (asked.rounds.stop.coverage, asked.rounds.stop.differ, asked.rounds.stop.accuracy) == (None, None, False)
    told = asked.model_dump(mode="json")
    assert build(told, where="again") == asked
    told["rounds"]["stop"]["coverage"] = 0.5  # as earlier versions wrote it
    assert build(told, where="earlier") == asked


@pytest.mark.parametrize(
    ("said", "asked"),
    [
        ("rounds.changes.questions: all rounds share it", recipe({**ROUNDS, "changes": {"questions": {}}})),
        ("rounds.changes.evaluate: rounds are compared by it", changed({"evaluate": {"max_new_tokens": 8}})),
        ("rounds.changes.distil: later rounds follow", changed({"distil": {"channel": "t.topk"}})),
        ("rounds.changes.student.pretrained: the student is", changed({"student": {"pretrained": "elsewhere"}})),
        ("rounds.changes.train: expected a mapping of its keys, got 5", changed({"train": 5})),
        ("rounds.changes.encode: expected a mapping of its keys, got None", changed({"encode": None})),
        ("rounds.changes.train.on_policy: that is rounds.on_policy", changed({"train": {"on_policy": OWN}})),
        ("on_policy does not go with weighting.use: dft", recipe(ROUNDS, weighting="dft")),
        ("only decoders write here", recipe(ROUNDS, student={"config": {"model_type": "t5"}})),
        ("train.on_policy.teacher: nowhere", recipe({**ROUNDS, "on_policy": {**OWN, "teacher": "nowhere"}})),
    ],
)
def test_what_later_rounds_cannot_be_is_said_before_the_first(tmp_path, monkeypatch, said, asked):
    fake(monkeypatch)
    with pytest.raises(InputError, match=said):
        begin(tmp_path / "run", asked).check()


def rounds_of(monkeypatch, tmp_path, ended=None, skill=lambda number: 0.5):
    told = fake(monkeypatch, skill=skill)
    plain = student_stages.train_arm

    def train(run, arm, label, console, **more):
        plain(run, arm, label, console, **more)
        if run.recipe.train.on_policy is not None:
            (run.stage(arm, "train") / "export" / "config.json").write_text(f'{{"round": {run.root.name}}}')
            extra = {"on_policy": {**TOLD, "ended": ended if run.root.name == "1" else None}}
            who = identity("train", *run.train_stage(arm))
            write_manifest(run.stage(arm, "train"), who, Stage(run.stage(arm, "train"), {"steps": 6}, extra), 1.0)

    monkeypatch.setattr(student_stages, "train_arm", train)
    rounds = begin(tmp_path / "run", recipe(ROUNDS))
    return rounds.run(), told


def test_each_is_trained_and_asked_and_nothing_is_done_twice(tmp_path, monkeypatch):
    result, told = rounds_of(monkeypatch, tmp_path, skill=lambda number: 0.5 + 0.1 * number)
    assert told == ["train 0", "evaluate 0", "train 1", "evaluate 1", "train 2", "evaluate 2"]
    assert result["best"] == 2
    assert [row["teachers"] for row in result["rounds"]] == [["solver"], ["student-0"], ["student-1"]]
    assert result["rounds"][1]["own_texts"]["in"] == 24
    assert "student-1" in page_of({"rounds": result})
    again = begin(tmp_path / "run", recipe(ROUNDS)).run()
    assert again == result
    assert len(told) == 6


def test_texts_that_have_grown_end_rounds(tmp_path, monkeypatch):
    result, told = rounds_of(monkeypatch, tmp_path, ended={"rule": "length", "why": "the texts have grown"})
    assert told[-1] == "evaluate 1", "its student is asked all the same"
    assert result["stopped"] == {"round": 1, "rule": "length", "why": "the texts have grown"}
    assert "stopped after round 1 (length): the texts have grown" in ending(tmp_path, result)


def test_the_summary_says_what_was_written_and_where_the_time_went():
    assert by_own_texts(None) == ""
    told = by_own_texts({**TOLD, "ended": {"rule": "length", "why": "they grew"}})
    assert "23 of 24 texts of its own, overlong 1 in 3 refreshes, right 25% in the first and 50% in the last" in told
    assert "time: writing 50%, teacher 10%, training 40%" in told
    assert told.endswith("ended early: they grew")
