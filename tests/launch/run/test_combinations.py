"""Features together that were built apart: what training measures is what evaluation finds in the export.

Each run averages its parameters, saves in the background, measures and asks held-out questions on two ranks. The loss
by kind of the exported student, read from disk into one process, must be that of the measurement.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import chat_templates as made
import pytest
import torch
import yaml
from command_line import program, start
from fake_run import RECIPE, STUDENT, mini_recipe
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.run.checks import check_arm
from tracestill.trainer.losses.losses import load_student, teacher_forced
from tracestill.trainer.recipe.run_directory import RunDirectory

LLAMA = {**STUDENT, "num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 4}
T5 = {"model_type": "t5", "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
TRAIN = {"steps": 4, "ranks": 2, "checkpoint_every": 2, "held_out_every": 2, "held_out_questions": 3, "ema": 0.9}
SLICED = {"zero_optimization": {"stage3_param_persistence_threshold": 0}}
DROPPED = {"use": "random_drop", "options": {"keep": 0.5}, "weights": {"prompt": 0}, "normaliser": "spans"}
CHAT = {"template": "chat", "tokenizer": {"path": "{tokenizer}", "vocab_size": None}}
LORA = {"rank": 4, "dropout": 0.1}

COMBINATIONS: dict[str, dict[str, Any]] = {
    "shared rows, tiles, recomputed layers, weights by token, chosen by answers": {
        "student": {"config": LLAMA, "activation_checkpointing": True},
        "train": {"zero": 3, "sequence_parallel": 2, "tiled_mlp": 3, "metric": "generation.accuracy", "export": "best"},
        "weighting": DROPPED,
        "deepspeed": SLICED,
    },
    "adapters, new symbols, a chat, two tasks": {
        "encode": {**CHAT, "tokenizer": {**CHAT["tokenizer"], "add_symbols": True}, "two_task": {}},
        "student": {"pretrained": "{llama}", "lora": {**LORA, "train": ["embeddings", "head"]}},
        "train": {"zero": 3},
        "deepspeed": SLICED,
    },
    "adapters apart, a chat, shared rows": {
        "encode": CHAT,
        "student": {"pretrained": "{llama}", "lora": {**LORA, "export": "apart"}},
        "train": {"sequence_parallel": 2, "tiled_mlp": True},
    },
    "adapters, compiled layers, shared rows": {
        "encode": CHAT,
        "student": {"pretrained": "{llama}", "lora": LORA, "compile": True},
        "train": {"zero": 1, "sequence_parallel": 2},
    },
    "an encoder-decoder, two tasks, weights by token": {
        "encode": {**RECIPE["encode"], "two_task": {"answer_prefix": "🏷 "}},
        "student": {"config": T5, "activation_checkpointing": True},
        "train": {"zero": 3, "metric": "answer.loss", "export": "best"},
        "weighting": DROPPED,
        "deepspeed": SLICED,
    },
    "an encoder-decoder, adapters apart": {
        "encode": {"tokenizer": {"path": "{complete}", "vocab_size": None}},
        "student": {"pretrained": "{t5}", "lora": {**LORA, "export": "apart"}},
        "train": {"zero": 3},
        "deepspeed": SLICED,
    },
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tokenizers, one of them complete for the plain form, and pretrained models with room for their tokens."""
    folder = tmp_path_factory.mktemp("given")
    paths = {"tokenizer": made.save(folder / "tokenizer", made.THINKING, think=False), "complete": folder / "complete"}
    add_control_symbols(made.save(paths["complete"], made.THINKING, think=False))
    torch.manual_seed(0)
    for name, auto, config in (("llama", AutoModelForCausalLM, LLAMA), ("t5", AutoModelForSeq2SeqLM, T5)):
        more = {"decoder_start_token_id": 0} if name == "t5" else {}
        values = {**config, "vocab_size": 352, **more}
        paths[name] = folder / name
        auto.from_config(AutoConfig.for_model(values.pop("model_type"), **values)).save_pretrained(paths[name])
    return paths


@pytest.mark.soak
@pytest.mark.parametrize("name", COMBINATIONS)
def test_the_export_is_what_was_measured(name: str, given: dict[str, Path], tmp_path: Path) -> None:
    recipe = {
        **RECIPE,
        "questions": {**RECIPE["questions"], "validation": 4},
        "sample": {**RECIPE["sample"], "test_samples": 1},
        "evaluate": {"max_new_tokens": 24, "questions": 3},
        **COMBINATIONS[name],
        "train": {**TRAIN, **COMBINATIONS[name]["train"]},
        "arms": {},
    }
    text = yaml.safe_dump(recipe, allow_unicode=True)
    for key, path in given.items():
        text = text.replace(f"{{{key}}}", str(path))
    (tmp_path / "recipe.yaml").write_text(text)
    root = tmp_path / "run"
    done = start(program("tracestill"), "run", tmp_path / "recipe.yaml", "--run-dir", root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]

    run = RunDirectory.open(root)
    own, train = run.recipe.for_arm("traces"), run.stage("traces", "train")
    lines = [json.loads(line) for line in (train / "log.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["kinds"] for line in lines if line.get("event") == "held_out"}
    assert [line["step"] for line in lines if line.get("event") == "answers"] == [0, 2, 4]
    chosen = json.loads((train / "manifest.json").read_text())["counts"]["exported_step"]
    store = TokenStore(run.stage("traces", "encode") / "validation.arrow", own.span_kinds())
    student = load_student(train / "export", own, torch.device("cpu"))
    found = teacher_forced(student, store, torch.device("cpu"))
    assert found.keys() == measured[chosen].keys()
    for kind, row in found.items():
        assert row["count"] == measured[chosen][kind]["count"]
        assert row["loss"] == pytest.approx(measured[chosen][kind]["loss"], rel=2e-6)
    assert chosen == 0 or measured[chosen] != measured[0]  # or nothing was told apart


def test_an_arm_that_inherits_the_form_of_an_encoder_decoder_is_refused(given: dict[str, Path]) -> None:
    student = {"config": None, "pretrained": str(given["llama"])}
    arms = {"plain": {"student": student, "encode": {"template": "plain"}}, "inherits": {"student": student}}
    recipe = mini_recipe(student={"config": T5}, arms=arms)
    check_arm(recipe.for_arm("plain"), 0, evaluates=True)
    with pytest.raises(InputError, match="encoder_decoder is for students like T5; set it to plain"):
        check_arm(recipe.for_arm("inherits"), 0, evaluates=True)
