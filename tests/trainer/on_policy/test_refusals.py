"""What a student that learns from its own texts cannot have with it, and what a teacher has to be."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_run import mini_recipe
from own_texts import prepared, recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.run.checks import check_scorer_of_texts
from tracestill.trainer.assembly.teacher_stops import check_teacher

OWN = {"teacher": "none"}
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
