"""Whole runs in a chat template and with two tasks: plain transformers makes of the exports what evaluation saw."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import chat_templates as made
import pyarrow.parquet as pq
import pytest
import yaml
from fake_run import RECIPE, STUDENT, claim, mini_recipe, summary
from forked_command import command
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.look.inspect_run import Shown, inspect_run
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.recipe.run_directory import RunDirectory

LIMIT = 100
WIDER = {"hidden_size": 32, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student of a chat (main arm), and one of two tasks (arm ``two``), trained until they end by themselves."""
    folder = tmp_path_factory.mktemp("forms")
    chat = made.save(folder / "tokenizer", made.THINKING)
    recipe = {
        **RECIPE,
        "questions": {"source": "digit_sum", "train": 40, "test": 6, "options": {"digits": 2, "modulus": 5}},
        "sample": {"teachers": [{"name": "solver"}]},
        "encode": {"template": "chat", "system": "Add.", "tokenizer": {"path": str(chat), "vocab_size": None}},
        "plan": {"capacity": 512, "packs_per_step": 2},
        "student": {"config": {**STUDENT, **WIDER}},
        "train": {"steps": 120, "ranks": 1, "lr": 1e-2, "log_every": 50},
        "evaluate": {"max_new_tokens": LIMIT},
        "arms": {
            "two": {
                "encode": {
                    "template": "plain", "system": None, "two_task": {},
                    "tokenizer": {"path": None, "vocab_size": 320},
                },
            }
        },
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    command("run", folder / "recipe.yaml", "--run-dir", folder / "run")
    return folder / "run"


def predictions(run: Path, arm: str) -> list[dict]:
    return pq.read_table(run / "arms" / arm / "evaluate" / "predictions.parquet").to_pylist()


@pytest.mark.parametrize(("arm", "system"), [("traces", [{"role": "system", "content": "Add."}]), ("two", [])])
def test_plain_transformers_writes_what_evaluation_judged(run: Path, arm: str, system: list) -> None:
    export = run / "arms" / arm / "train" / "export"
    model = AutoModelForCausalLM.from_pretrained(export).eval()
    tokenizer = AutoTokenizer.from_pretrained(export)
    rows = predictions(run, arm)
    assert len(rows) == 6
    assert any(row["finished"] for row in rows)  # or stopping was not tested
    for row in rows:
        messages = [*system, {"role": "user", "content": row["question"]}]
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt").input_ids
        written = model.generate(ids, max_new_tokens=LIMIT)[0, ids.shape[1] :]
        assert tokenizer.decode(written) == row["text"]
        assert len(written) == row["tokens"]
        if row["finished"] and arm == "traces":
            assert row["text"].endswith("<|im_end|>")
    messages = [*system, {"role": "user", "content": "How much is 1 + 2?"}]  # the template writes the task's prefix
    assert f"messages = {messages}\n" in (export / "README.md").read_text()


def test_the_student_of_a_chat_learns_its_form(run: Path) -> None:
    rows = [row for row in predictions(run, "traces") if row["finished"] and row["answer"] is not None]
    assert rows
    for row in rows:
        before, tag, after = row["text"].partition("</think>")
        assert (before.startswith("<think>\n"), tag) == (True, "</think>")
        assert row["trace"].strip() == before.removeprefix("<think>\n").strip()
        said = after.removesuffix("<|im_end|>").strip()
        assert row["answer"].strip() == (said if row["read_by"] == "whole" else row["answer"])
        assert row["answer"].strip() in said
        assert row["trace_tokens"] > 0
    about = read_manifest(run / "arms/traces/encode")
    assert about["form"]["trace_given_as"] == "reasoning_content"
    told = summary("encode", run / "arms/traces/encode")
    assert told.endswith(f"; noted: straddling tokens {about['counts']['notes']['straddling_tokens']:,}")
    export = run / "arms/traces/train/export"
    stops = json.loads((export / "generation_config.json").read_text())["eos_token_id"]
    vocabulary = AutoTokenizer.from_pretrained(export).get_vocab()
    assert stops == [vocabulary["<|im_end|>"], vocabulary["<|end|>"]]
    assert json.loads((export / "config.json").read_text())["eos_token_id"] == stops[0]
    assert (export / "chat_template.jinja").read_text() == made.THINKING


def test_the_student_of_two_tasks_answers_at_once(run: Path) -> None:
    store = TokenStore(run / "arms/two/encode/tokens.arrow", Kinds())
    counts = read_manifest(run / "arms/two/encode")["counts"]
    assert len(store) == 2 * (counts["out"] - counts["splits"].get("test", {"documents": 0})["documents"] // 2)
    result = json.loads((run / "arms/two/evaluate/result.json").read_text())
    assert result["asked"] == "<s>[label] " + predictions(run, "two")[0]["question"]
    rows = [row for row in predictions(run, "two") if row["finished"]]
    assert {row["trace_tokens"] for row in rows} == {0}
    assert all(row["answer"] for row in rows)


def test_inspect_shows_the_rendered_tokens(run: Path) -> None:
    console = Console(record=True, width=200, file=StringIO())
    inspect_run(RunDirectory.open(run), "traces", Shown(), console)
    lines = console.export_text().splitlines()
    assert any(line.startswith("prompt") and "<|im_start|>|user" in line for line in lines)
    assert any(line.startswith("control") and line.endswith("<think>|↵") for line in lines)


def test_a_template_that_cannot_be_trained_on_is_refused_before_any_work(tmp_path: Path) -> None:
    tokenizer = {"path": str(made.save(tmp_path / "tokenizer", made.DROPPING))}
    run = claim(tmp_path / "run", mini_recipe(encode={"template": "chat", "tokenizer": tokenizer}, arms={}))
    with pytest.raises(InputError, match="drops the reasoning"):
        plan_works(run)
