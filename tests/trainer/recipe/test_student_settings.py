"""The student block: what is refused before any work, and that the recipe refuses it too."""

from __future__ import annotations

import subprocess
import sys

import pytest
from fake_run import STUDENT, mini_recipe
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.recipe.student_settings import StudentConfig


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "exactly one of student.config and student.pretrained"),
        ({"config": {"hidden_size": 3}}, "needs a model_type"),
        ({"config": STUDENT, "lora": {}}, "adapts a pretrained model"),
        ({"pretrained": "x", "lora": {}, "freeze": ["head"]}, "with student.lora all is frozen"),
        ({"pretrained": "x", "lora": {"targets": []}}, "name at least one layer, or auto"),
        ({"pretrained": "x", "lora": {"train": ["head"], "export": "apart"}}, "apart holds adapters only"),
        ({"pretrained": "x", "lora": {"rank": 0}}, "greater than or equal to 1"),
        ({"pretrained": "x", "lora": {"dropout": 1}}, "less than 1"),
        ({"pretrained": "x", "liger": "maybe"}, "liger"),
    ],
)
def test_impossible_students_are_refused(block, message):
    with pytest.raises(ValidationError, match=message):
        StudentConfig(**block)


def test_compile_is_refused_at_stage_3_and_with_tiles_only():
    student = {"config": STUDENT, "compile": True}
    assert mini_recipe(student=student).student.compile
    with pytest.raises(InputError, match=r"student\.compile: not at train\.zero 3"):
        mini_recipe(student=student, train={"steps": 1, "zero": 3})
    with pytest.raises(InputError, match=r"student\.compile: not with train\.tiled_mlp"):
        mini_recipe(student=student, train={"steps": 1, "tiled_mlp": 2})
    arms = {"sharded": {"train": {"zero": 3}}}
    with pytest.raises(InputError, match=r"student\.compile: not at train\.zero 3"):
        mini_recipe(student=student, arms=arms).for_arm("sharded")


def test_a_recipe_is_checked_without_torch():
    code = (
        "import sys, tracestill.trainer.recipe.settings, tracestill.trainer.recipe.student_settings;"
        "assert not {'torch', 'transformers', 'peft'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
