"""What a model directory or a chat template would do hours later is told before any work begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates as made
import pytest
import yaml
from tiny_export import tiny_model

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.run.checks import check_arm
from tracestill.trainer.recipe.recipe import Recipe, build

DEMO = Path(__file__).parents[3] / "recipes" / "demo.yaml"


def recipe(**blocks: Any) -> Recipe:
    held = yaml.safe_load(DEMO.read_text())
    return build({**held, "arms": {}, **blocks}, where="test")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tiny_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_reference_model_is_looked_at_like_a_student(directory: Path) -> None:
    weighting = {"use": "excess_loss", "options": {"reference": str(directory), "share": 0.5}}
    check_arm(recipe(weighting=weighting), 0, evaluates=False)
    (directory / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match=r"^weighting.options.reference: .*model.safetensors: is empty"):
        check_arm(recipe(weighting=weighting), 0, evaluates=False)
    weighting["options"]["reference"] = str(directory / "yet to be trained")
    check_arm(recipe(weighting=weighting), 0, evaluates=False)


def test_a_quantised_student_is_not_trained_in_vain(directory: Path) -> None:
    """transformers reads some kinds without a further package, and writes none of them."""
    file = directory / "config.json"
    quantised = {"quant_method": "gguf", "gguf_file": "model.gguf", "dequantize": False}
    file.write_text(json.dumps({**json.loads(file.read_text()), "quantization_config": quantised}))
    student = {"pretrained": str(directory)}
    with pytest.raises(InputError, match=r"^student.pretrained: .*config.json: its weights are quantised \(gguf\)"):
        check_arm(recipe(student=student), 0, evaluates=False)


@pytest.mark.parametrize("add_symbols", [False, True])
def test_a_template_is_tried_before_anything_is_asked(tmp_path: Path, add_symbols: bool) -> None:
    encode = {"template": "chat", "tokenizer": {"path": str(tmp_path), "add_symbols": add_symbols}}
    made.save(tmp_path, made.CHATML)
    check_arm(recipe(encode=encode), 0, evaluates=False)
    made.save(tmp_path, "{{ 1/0 }}" + made.CHATML)
    with pytest.raises(InputError, match=r"refuses the messages user \(ZeroDivisionError: division by zero, line 1"):
        check_arm(recipe(encode=encode), 0, evaluates=False)
