"""What a student that learns from its own texts cannot have with it, and what a teacher has to be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from fake_run import mini_recipe
from own_texts import prepared, recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.rounds.on_policy import TextTeacher
from tracestill.launch.run.checks import check_scorer_of_texts
from tracestill.trainer.assembly.teacher_stops import check_teacher, stop_warning
from tracestill.trainer.recipe.run_directory import RunDirectory

OWN = {"teacher": "none"}
SERVED = {"model": "none", "server": {"url": "http://localhost:8000/v1"}}
LORA = {"pretrained": "somewhere", "lora": {"rank": 2}}
SCORED = {"score": {"t": {"model": "there", "channels": ["topk"]}}, "distil": {"channel": "t.topk"}}


@pytest.mark.parametrize(
    ("said", "changes"),
    [
        ("an encoder-decoder", {"student": {"config": {"model_type": "t5"}}}),
        ("student.lora", {"student": LORA}),
        ("distil", SCORED),
        ("encode.two_task", {"encode": {"two_task": {}}}),
        ("segment.by: spans", {"segment": {"by": "spans"}}),
        ("weighting.use: dft", {"weighting": "dft"}),
        ("train.local_checkpoints", {"train": {"local_checkpoints": True}}),
        ("train.label_smoothing", {"train": {"label_smoothing": 0.1}}),
        ("train.z_loss", {"train": {"z_loss": 1e-4}}),
        ("train.steps", {"train": {"steps": None, "epochs": 2}}),
    ],
)
def test_what_does_not_go_with_it_is_refused_by_name(said, changes):
    train = {"steps": 4, "ranks": 1, **changes.get("train", {}), "on_policy": OWN}
    with pytest.raises(InputError, match=f"train.on_policy (does not go with|needs) {said}"):
        mini_recipe(**{"arms": {}, **changes, "train": train})


@pytest.mark.parametrize(
    ("said", "own"),
    [
        ("advantage is for teacher: none", {"teacher": "there", "advantage": {"wrong": -0.5}}),
        ("divergence: jsd needs a teacher", {"teacher": None, "divergence": "jsd"}),
        ("beta is for divergence: jsd", {"teacher": "there", "beta": 0.3}),
        ("train.on_policy.teacher: zero: is for a model that is read here", {"teacher": {**SERVED, "zero": 3}}),
        ("train.on_policy.teacher: zero: is for a model that is read here", {"teacher": {"model": "none", "zero": 3}}),
        ("train.on_policy.teacher.server.url", {"teacher": {"model": "there", "server": {"url": "localhost:80"}}}),
        ("nothing would be learnt", {"teacher": "none", "advantage": {"right": 0, "wrong": 0}}),
    ],
)
def test_keys_that_contradict_each_other_are_refused(said, own):
    with pytest.raises(InputError, match=said):
        mini_recipe(arms={}, train={"steps": 4, "on_policy": own})


def test_a_teacher_of_other_tokens_or_another_end_is_refused_before_anything_runs(tmp_path):
    data, teacher = prepared(tmp_path)
    tokenizer = data / "tokenizer"
    named = {"encode": {"tokenizer": {"path": str(tokenizer)}}}
    own = recipe(teacher).model_copy(update={"encode": mini_recipe(arms={}, **named).encode})
    check_scorer_of_texts(own)
    check_teacher(own)
    ends = json.loads((teacher / "config.json").read_text())
    (teacher / "generation_config.json").write_text(json.dumps({"eos_token_id": ends["eos_token_id"] + 7}))
    with pytest.raises(InputError, match=r"train.on_policy.teacher: the student's documents end with </s>, and"):
        check_teacher(own)
    silent = own.weighting.model_copy(update={"weights": {"prompt": 0.0, "control": 0.0}})
    check_teacher(own.model_copy(update={"weighting": silent}))

    other = tmp_path / "other"
    shutil.copytree(tokenizer, other)
    held = json.loads((other / "tokenizer.json").read_text())
    held["model"]["vocab"] = {
        token[::-1] + "?" if at > 300 else token: at for token, at in held["model"]["vocab"].items()
    }
    held["model"]["merges"] = []
    (teacher / "tokenizer.json").write_text(json.dumps(held))
    with pytest.raises(InputError, match=r"train.on_policy.teacher: .* has another vocabulary than the student"):
        check_scorer_of_texts(own)
    with pytest.raises(InputError, match=r"train.on_policy.teacher: .*nowhere"):
        check_scorer_of_texts(recipe(tmp_path / "nowhere"))


def test_a_teacher_may_be_named_alone_or_with_how_it_is_read():
    def teacher(given):
        return mini_recipe(arms={}, train={"steps": 4, "on_policy": {"teacher": given}}).train.on_policy

    assert teacher("there").teacher == teacher({"model": "there"}).teacher
    assert teacher("there").teacher.directory == Path("there")
    assert teacher({"model": "there", "zero": 3}).teacher.directory == Path("there")
    assert not teacher(None).has_teacher
    assert teacher(None) == teacher("none")
    assert teacher(SERVED).has_teacher, "so it is called there"
    assert teacher(SERVED).teacher.directory is None


@pytest.mark.parametrize(
    ("main", "arm", "found"),
    [
        ("here", SERVED, SERVED),
        ("here", {"model": "there", "zero": 3}, {"model": "there", "zero": 3}),
        ({"model": "here", "zero": 3}, {"model": "there"}, {"model": "there", "zero": 3}),
        (SERVED, "there", {"model": "there"}),
    ],
)
def test_an_arm_may_have_its_teacher_elsewhere(main, arm, found):
    over = {"train": {"on_policy": {"teacher": arm}}}
    asked = mini_recipe(arms={"other": over}, train={"steps": 4, "on_policy": {"teacher": main}})
    assert asked.for_arm("other").train.on_policy.teacher == TextTeacher(**found)


def test_a_training_stays_current_wherever_its_teacher_lies_and_not_if_it_is_another(tmp_path):
    _, directory = prepared(tmp_path)

    def decided(given):
        config, _ = RunDirectory(tmp_path / "data", recipe(given)).train_stage("traces")
        return config

    alone = decided(directory)
    assert alone["train"]["on_policy"]["teacher"] == str(directory), "as runs of before have it"
    assert decided({"model": str(directory), "zero": 3}) == alone
    served = decided(SERVED)
    elsewhere = {"url": "http://other:8000/v1", "concurrency": 2, "api_key_env": "KEY"}
    assert decided({**SERVED, "server": elsewhere}) == served != alone
    assert decided({**SERVED, "server": {**elsewhere, "form": "echo"}}) != served
    assert decided({**SERVED, "model": "larger"}) != served


def test_a_served_teacher_is_asked_for_its_key_first_and_told_of_where_nobody_knows_its_end(monkeypatch):
    with_key = {**SERVED, "server": {**SERVED["server"], "api_key_env": "TEACHERS_KEY"}}
    monkeypatch.delenv("TEACHERS_KEY", raising=False)
    with pytest.raises(InputError, match=r"^train.on_policy.teacher.server.api_key_env: TEACHERS_KEY is not set"):
        check_scorer_of_texts(recipe(with_key))
    monkeypatch.setenv("TEACHERS_KEY", "abcdefgh12345678")
    check_scorer_of_texts(recipe(with_key))
    check_teacher(recipe(with_key))
    (line,) = stop_warning(recipe(with_key))
    assert line.startswith("none is served, so look yourself whether it ends its texts")
    assert stop_warning(recipe("none")) == []
