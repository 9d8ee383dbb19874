"""The parts of an evaluation with a real, if tiny, student: what it writes depends on it and the question alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from fake_run import mini_recipe
from scripted_asker import question
from tiny_export import WORDS, save_tokenizer, tiny_model

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, write_rows
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.asking import LocalAsker
from tracestill.trainer.evaluation.parts import Context, measured

QUESTIONS = [question(n, f"{n} + {n + 1}", str(2 * n + 1)) for n in range(1, 6)]
PARTS: dict[str, Any] = {"samples": {"count": 3}, "cause": {"steps": 2}, "quality": {}}


def run(folder: Path, questions: list[dict], batch: int, **parts: Any) -> tuple[dict, dict[str, list[dict]]]:
    """What the parts found, and their rows."""
    folder.mkdir()
    save_tokenizer(folder / "tokenizer")
    recipe = mini_recipe(evaluate={"max_new_tokens": 20, "batch_size": batch, **parts})
    layout = load_layout(recipe.encode, folder / "tokenizer")
    asker = LocalAsker(tiny_model(vocab_size=len(WORDS)), layout, recipe)
    write_rows(folder / "records.parquet", [], RECORD_SCHEMA)
    predictions = evaluate.answer(recipe, questions, asker, lambda done, total: None)
    context = Context(recipe, questions, predictions, asker, Verifier(), folder, folder)
    found = measured(context)
    return found, {name: pq.read_table(folder / f"{name}.parquet").to_pylist() for name in parts}


def test_texts_depend_neither_on_the_batch_nor_on_the_other_questions(tmp_path: Path) -> None:
    found, rows = run(tmp_path / "all", QUESTIONS, 7, **PARTS)
    assert found.keys() == PARTS.keys()
    assert found["samples"]["questions"] == 5
    assert found["cause"]["no_trace"]["count"] == 5
    _, fewer = run(tmp_path / "few", QUESTIONS[2:4], 2, **PARTS)
    ids = {each["question_id"] for each in QUESTIONS[2:4]}
    texts = ("question_id", "sample", "text", "answer", "vote")
    left = [[row[key] for key in texts] for row in rows["samples"] if row["question_id"] in ids]
    assert [[row[key] for key in texts] for row in fewer["samples"]] == left
    assert len({row["text"] for row in rows["samples"]}) > 5, "samples differ"
    assert [row["logprob"] for row in rows["samples"]] == pytest.approx(
        [exact_logprob(row) for row in rows["samples"]], rel=1e-4
    )


def exact_logprob(row: dict) -> float:
    """By plain transformers, in float64, of all tokens that were written."""
    asked = next(each["question"] for each in QUESTIONS if each["question_id"] == row["question_id"])
    prompt, written = ([WORDS.index(word) for word in text.split()] for text in (f"<s> {asked}", row["text"]))
    ids = torch.tensor([[*prompt, *written]])
    with torch.no_grad():
        chances = tiny_model(vocab_size=len(WORDS)).double()(ids).logits[0].log_softmax(-1)
    return sum(float(chances[at - 1, ids[0, at]]) for at in range(len(prompt), ids.shape[1]))


def test_a_part_that_is_off_is_not_measured(tmp_path: Path) -> None:
    found, _ = run(tmp_path / "none", QUESTIONS[:1], 1)
    assert found == {}
