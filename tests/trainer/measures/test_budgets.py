"""Accuracy against tokens of the thought, by hand: a student whose thoughts are as long as the question says."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scripted_student import script
from tiny_export import RECIPE, WORDS, save_tokenizer, tiny_model

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.asking import LocalAsker
from tracestill.trainer.evaluation.parts import Context
from tracestill.trainer.measures.budgets import budgets
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.writing.decoding import Wanted

S, THINK, END, STOP = (WORDS.index(word) for word in ("<s>", "<think>", "</think>", "</s>"))
ADD, SO = WORDS.index("add"), WORDS.index("so")
DIGIT = WORDS.index("0")


def writes(one: Wanted) -> list[int]:
    """Thinks as many tokens as the first digit of the question, twice, and answers with their number, at most 9. Asked
    to go on after "so", it adds two tokens and answers 7."""
    ids = list(one.ids)
    if THINK not in ids:
        length = 2 * (ids[1] - DIGIT)
        said = [THINK, *[ADD] * length, END, DIGIT + min(length, 9), STOP]
    elif ids[-1] == END:
        said = [DIGIT + min(ids.count(ADD), 9), STOP]
    else:
        assert ids[-1] == SO
        said = [ADD, ADD, END, DIGIT + 7, STOP]
    return said[: one.limit]


def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gold: list[str], **config: object) -> tuple[dict, list]:
    script(monkeypatch, writes, stop=STOP)
    recipe = Recipe.model_validate({**RECIPE, "evaluate": {"max_new_tokens": 40, "budgets": config}})
    save_tokenizer(tmp_path / "tokenizer")
    asker = LocalAsker(tiny_model(), load_layout(recipe.encode, tmp_path / "tokenizer"), recipe)
    questions = [
        {"question_id": f"q{at}", "question": text, "gold": answer, "metadata": "{}"}
        for at, (text, answer) in enumerate(zip(["1", "3", "9", "2 </s>"], gold, strict=True))
    ]
    predictions = evaluate.answer(recipe, questions, asker, lambda done, total: None)
    verifier = Verifier(recipe.verify)
    context = Context(recipe, questions, predictions, asker, verifier, tmp_path, tmp_path)
    found = budgets(context)
    return found, pq.read_table(tmp_path / "budgets.parquet").to_pylist()


def test_a_thought_is_ended_where_its_budget_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, rows = measured(tmp_path, monkeypatch, ["2", "6", "4", "1"], tokens=[5, 8, 40], answer_tokens=3)
    told = [(r["budget"], r["question_id"], r["way"], r["answer"], r["correct"], r["tokens"]) for r in rows]
    assert told == [  # the mark that opens a thought is one of its tokens
        (5, "q0", "own", "2", True, 6),
        (5, "q1", "ended", "4", False, 5 + 2),
        (5, "q2", "ended", "4", True, 5 + 2),
        (5, "q3", "not_asked", None, False, 0),
        (8, "q0", "own", "2", True, 6),
        (8, "q1", "own", "6", True, 10),
        (8, "q2", "ended", "7", False, 8 + 2),
        (8, "q3", "not_asked", None, False, 0),
        (40, "q0", "own", "2", True, 6),
        (40, "q1", "own", "6", True, 10),
        (40, "q2", "own", "9", False, 22),
        (40, "q3", "not_asked", None, False, 0),
        (None, "q0", "own", "2", True, 6),
        (None, "q1", "own", "6", True, 10),
        (None, "q2", "own", "9", False, 22),
        (None, "q3", "not_asked", None, False, 0),
    ]
    assert found["questions"] == 4
    first, *_, last = found["curve"]
    assert (first["budget"], first["right"]["share"], first["answered"]["share"]) == (5, 0.5, 0.75)
    assert (first["ended"]["share"], first["tokens_mean"], first["right_per_1000_tokens"]) == (0.5, 5, 1000 * 2 / 20)
    assert (last["budget"], last["ended"]["share"], last["tokens_mean"]) == (None, 0, 9.5)


def test_a_thought_that_ends_too_early_is_made_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"continuation": "so", "answer_tokens": 3}
    found, rows = measured(tmp_path, monkeypatch, ["7", "7", "7", "7"], tokens=[8], **more)
    told = [(r["question_id"], r["way"], r["continued"], r["answer"], r["tokens"]) for r in rows[:3]]
    assert told == [
        ("q0", "own", 1, "7", 2 + 5),  # room for six tokens more: two of them, the end, and the answer behind it
        ("q1", "own", 1, "7", 6 + 5),  # two are left, the end comes at once
        ("q2", "ended", 0, "7", 8 + 2),  # longer than its budget as it is
    ]
    assert rows[0]["trace"].split() == ["add", "add", "so", "add", "add"]
    assert found["curve"][0]["continued"]["share"] == 0.5
    assert found["curve"][0]["right"]["share"] == 0.75


def test_what_others_put_there_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    more = {"continuation": "so", "continuations": 3, "answer_tokens": 3}
    _, rows = measured(tmp_path, monkeypatch, ["7"] * 4, tokens=[8], **more)
    assert (rows[0]["continued"], rows[0]["trace"].count("so")) == (3, 3)
    assert rows[0]["tokens"] == 2 + 2 + 2 + 5, "the last one with its end, and the answer"


def test_what_goes_on_for_too_long_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, rows = measured(tmp_path, monkeypatch, ["3"] * 4, tokens=[3], continuation="so", answer_tokens=3)
    assert [(r["way"], r["continued"], r["answer"], r["tokens"]) for r in rows[:2]] == [
        ("ended", 1, "3", 2 + 1 + 2),  # one token is left: the thought is cut behind it
        ("ended", 0, "2", 3 + 2),
    ]


def test_budgets_beyond_what_is_written_are_refused() -> None:
    with pytest.raises(ValueError, match=r"budgets: 64 tokens are more than max_new_tokens, which is 40"):
        Recipe.model_validate({**RECIPE, "evaluate": {"max_new_tokens": 40, "budgets": [8, 64]}})
    assert Recipe.model_validate({**RECIPE, "evaluate": {"budgets": [64, 8]}}).evaluate.budgets.tokens == (8, 64)


def test_a_question_without_gold_has_no_part_in_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, rows = measured(tmp_path, monkeypatch, ["2", "", "4", "1"], tokens=[40])
    assert (found["questions"], found["without_gold"]) == (3, 1)
    assert {row["question_id"] for row in rows} == {"q0", "q2", "q3"}
    assert [row["right"]["count"] for row in found["curve"]] == [3, 3]
