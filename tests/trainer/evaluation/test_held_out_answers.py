"""Answers to held-out questions while training: each question asked once, figures over all ranks, no trace left."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_run import mini_recipe

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, write_rows
from tracestill.trainer.evaluation import held_out_answers
from tracestill.trainer.evaluation.held_out_answers import HeldOutAnswers
from tracestill.trainer.measures.unasked import OVERLONG, REFUSED


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Questions in the order in which a stand-in for generation answers them: two in three rightly."""
    splits = ["train", *["test"] * 4, *["validation"] * 9]
    rows = [{"question": f"{i}", "gold": "7", "split": split} for i, split in enumerate(splits)]
    for row in rows:
        row |= {"question_id": row["question"], "group": "", "metadata": "{}"}
    write_rows(tmp_path / "questions.parquet", rows, QUESTION_SCHEMA)
    seen: list[str] = []

    def predict(recipe: Any, questions: Any, folder: Path, device: Any, progress: Any) -> list[dict[str, Any]]:
        assert (folder / "config.json").exists()
        torch.manual_seed(0)  # it may draw random numbers
        seen.extend(row["question"] for row in questions)
        numbers = [int(row["question"]) for row in questions]
        rows = [{"correct": n % 3 != 0, "finished": n != 6, "trace_tokens": n, "read_by": "whole"} for n in numbers]
        return [{**row, "trace_tokens": 0, "read_by": REFUSED} if row["trace_tokens"] == 9 else row for row in rows]

    monkeypatch.setattr(held_out_answers, "predict", predict)
    return seen


def answers(tmp_path: Path, **questions: int) -> HeldOutAnswers:
    source = {"source": "digit_sum", "train": 1, "test": 4, "options": {"digits": 3}, **questions}
    train = {"steps": 4, "held_out_every": 1, "held_out_questions": 7}
    return HeldOutAnswers(
        mini_recipe(questions=source, train=train), tmp_path / "questions.parquet", tmp_path / "asked"
    )


def export(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text("{}")


def engine(rank: int, ranks: int) -> Any:
    return SimpleNamespace(rank=rank, ranks=ranks, device=torch.device("cpu"))


@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_ranks_share_the_questions_and_count_them_all(tmp_path, monkeypatch, asked, ranks):
    held = answers(tmp_path, validation=9)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    together = lambda action, complaint: [held.answer(engine(rank, ranks)) for rank in range(ranks)]  # noqa: E731
    monkeypatch.setattr(held_out_answers, "together", together)
    found = held.measure(engine(0, ranks), export)
    assert held.split == "validation"
    assert sorted(asked, key=int) == [f"{n}" for n in range(5, 12)], "the first 7 of validation, each once"
    assert found == {"accuracy": 5 / 7, "count": 7, "truncated": 1, "not_asked": 1, "trace_tokens_mean": 47 / 6}
    assert torch.equal(torch.get_rng_state(), state)
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("ranks", [1, 2, 7])
def test_questions_too_long_are_counted_unless_they_are_most_of_all_ranks(tmp_path, monkeypatch, asked, ranks):
    """Seven ranks have a question each, all of which may be too long."""
    monkeypatch.setattr(
        held_out_answers, "together", lambda action, complaint: [held.answer(engine(r, ranks)) for r in range(ranks)]
    )
    whole = {"correct": True, "finished": True, "trace_tokens": 0, "read_by": "whole"}
    for long in (3, 4):
        few = {f"{5 + at}" for at in range(long)}
        found = lambda recipe, questions, *more: [  # noqa: E731
            {**whole, "correct": False, "read_by": OVERLONG} if row["question"] in few else whole  # noqa: B023
            for row in questions
        ]
        monkeypatch.setattr(held_out_answers, "predict", found)
        held = answers(tmp_path, validation=9)
        if long == 3:
            assert held.measure(engine(0, ranks), export)["not_asked"] == 3
        else:
            with pytest.raises(InputError, match=r"with 4 of 7 train\.held_out_questions"):
                held.measure(engine(0, ranks), export)
        assert not (tmp_path / "asked").exists()


def test_without_validation_questions_test_ones_are_looked_at(tmp_path, asked):
    held = answers(tmp_path)
    assert held.split == "test"
    assert held.measure(engine(0, 1), export)["count"] == 4
    assert asked == ["1", "2", "3", "4"]


def test_no_question_and_a_student_that_cannot_answer_are_named(tmp_path, monkeypatch, asked):
    def fails(*arguments: Any) -> Any:
        raise InputError("evaluate.max_new_tokens: too many")

    held = answers(tmp_path)
    monkeypatch.setattr(held_out_answers, "predict", fails)
    with pytest.raises(InputError, match=r"train\.held_out_questions \(rank 0: evaluate\.max_new_tokens: too many\)"):
        held.measure(engine(0, 1), export)
    write_rows(tmp_path / "questions.parquet", [], QUESTION_SCHEMA)
    with pytest.raises(InputError, match=r"no question of the split 'test'; set questions\.test"):
        answers(tmp_path)
