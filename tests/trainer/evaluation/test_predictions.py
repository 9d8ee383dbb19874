"""Answers verified, and summed up as answered, right, and right when answered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.answers.verifier import VerifyConfig
from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.evaluation.predictions import NO_VERDICT, summary, verified


def row(answer: str | None, gold: str, **more: object) -> dict:
    about = {
        "question_id": "q",
        "question": "?",
        "gold": gold,
        "answer": answer,
        "read_by": "whole",
        **NO_VERDICT,
        "repeats": "",
    }
    return {**about, "finished": answer is not None, "trace_tokens": 3, "in_form": True, **more}


def test_answered_right_and_right_when_answered():
    rows = [
        row("18", "18"),
        row("- 7", "7"),
        row("1.500", "1500"),
        row(None, "7", read_by="cut_off", text="the answer is 7"),  # an unfinished thought is no answer
        row("B", "B"),
        row("2, 1", "1, 2"),
    ]
    questions = [{"metadata": "{}"}] * 5 + [{"metadata": json.dumps({"verifier": "set"})}]
    found = verified(rows, questions, Verifier())
    assert [one["verdict"] for one in found] == ["right", "wrong", "cannot_tell", "", "right", "right"]
    assert [one["correct"] for one in found] == [True, False, False, False, True, True]
    assert (found[1]["answer_as_read"], found[1]["gold_as_read"], found[1]["verified_by"]) == ("-7", "7", "number")
    told = summary(found)
    assert (told["questions"], told["answered"], told["right"]) == (6, 5, 3)
    assert (told["accuracy"], told["right_when_answered"]) == (0.5, 0.6)
    assert told["undecided"] == {"cannot_tell": 1}


def test_nobody_answered():
    told = summary(verified([row(None, "7")], [{}], Verifier()))
    assert (told["answered"], told["right_when_answered"], told["accuracy"]) == (0, None, 0.0)


def test_a_question_with_an_unknown_verifier_stops_before_anything_is_asked() -> None:
    recipe = SimpleNamespace(evaluate=None, sample=SimpleNamespace(readers=[]), verify=VerifyConfig())
    question = {"question_id": "q", "question": "1 + 1?", "gold": "2", "metadata": '{"verifier": "nubmer"}'}
    with pytest.raises(InputError, match="nubmer"):
        evaluate.answer(recipe, [question], None, None)


def test_shares_have_both_intervals_and_loops_are_counted() -> None:
    more = [{"repeats": "it says 'a' again and again"}, {"repeats": "", "finished": False}]
    rows = [row("1", "1", **more[0]), row(None, "2", **more[1]), row("3", "4"), row("5", "5")]
    told = summary(verified(rows, [{}] * 4, Verifier()))
    assert (told["answered"], told["answered_share"]) == (3, 0.75)
    low, high = told["right_when_answered_low"], told["right_when_answered_high"]
    assert (low, high) == pytest.approx((0.2077, 0.9385), abs=1e-4)  # Wilson's of 2 in 3
    assert told["bootstrap"]["accuracy"] == (0.0, 1.0)
    assert (told["loops"], told["loops_truncated"], told["truncated"]) == (1, 0, 1)


def test_a_question_without_gold_is_not_counted_as_wrong() -> None:
    rows = verified([row("18", "18"), row("3", ""), row(None, "7")], [{}] * 3, Verifier())
    told = summary(rows)
    assert (told["questions"], told["without_gold"], told["accuracy"]) == (3, 1, 0.5)
    assert (told["answered"], told["undecided"]) == (1, {})
    judged = [{**rows[1], "verdict": "wrong"}, rows[0]]  # by a verifier that needs no gold answer
    assert (summary(judged)["without_gold"], summary(judged)["accuracy"]) == (0, 0.5)


def test_who_tells_without_gold_would_have_told_of_an_answer_where_there_is_none() -> None:
    rows = [{**row("3", ""), "verdict": "right", "correct": True}, row(None, ""), row(None, "")]
    told = summary(rows)
    assert (told["without_gold"], told["accuracy"], told["right_when_answered"]) == (0, pytest.approx(1 / 3), 1.0)
    assert summary(rows[1:])["without_gold"] == 2, "nobody tells of any"
