"""Choosing by a metric: which measurement is best, and when waiting ends."""

from __future__ import annotations

import math

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.checkpoint.best import Best


def measured(**columns: float) -> dict[str, dict[str, float]]:
    return {"answer": {"count": 2, "loss": 1.0, "accuracy": 0.0, **columns}}


def run(best: Best, values: list[float], column: str = "loss") -> list[bool]:
    return [best.add(step, measured(**{column: value})) for step, value in enumerate(values, start=1)]


def test_a_loss_is_best_when_lowest_and_the_first_of_equals_stays():
    best = Best("answer.loss", None)
    assert run(best, [3.0, 2.0, 2.0, math.nan, 2.5, 1.0]) == [True, True, False, False, False, True]
    assert (best.step, best.value, best.waited, best.over) == (6, 1.0, 0, False)


def test_an_accuracy_is_best_when_highest():
    best = Best("answer.accuracy", 2)
    assert run(best, [0.0, 0.5, 0.4, 0.5], "accuracy") == [True, True, False, False]
    assert (best.step, best.over) == (2, True)


def test_answers_to_questions_choose_like_an_accuracy():
    best = Best("generation.accuracy", None)
    for step, accuracy in enumerate([0.2, 0.5, 0.5], start=1):
        best.add(step, measured() | {"generation": {"accuracy": accuracy, "count": 9}})
    assert (best.step, best.value) == (2, 0.5)


def test_patience_counts_measurements_since_the_best():
    best = Best("answer.loss", 2)
    over = []
    for step, value in enumerate([3.0, 4.0, 2.0, 2.1, 2.2]):
        best.add(step, measured(loss=value))
        over.append(best.over)
    assert over == [False, False, False, False, True]


def test_state_goes_on_where_it_was():
    first, second = Best("answer.loss", 2), Best("answer.loss", 2)
    run(first, [3.0, 4.0])
    second.restore(first.state())
    assert not second.add(3, measured(loss=3.5))
    assert (second.step, second.value, second.over) == (1, 3.0, True)
    other = Best("answer.accuracy", 2)
    other.restore(first.state())
    assert other.value is None, "of another metric"


def test_a_group_is_the_mean_over_its_tokens():
    kinds = {
        "derive": {"count": 30, "loss": 1.0},
        "plan": {"count": 10, "loss": 3.0},
        "answer": {"count": 5, "loss": 9.0},
    }
    assert Best("trace.loss", None).read(kinds) == pytest.approx(1.5)
    with pytest.raises(InputError, match=r"train\.metric: check\.loss, but no validation document"):
        Best("check.loss", None).read(kinds)
