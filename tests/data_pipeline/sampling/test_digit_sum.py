"""The task digit_sum: its questions, and a teacher that errs as often and in the ways that it says."""

from __future__ import annotations

import math
import random
import re
from collections import Counter

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, span_fault
from tracestill.data_pipeline.sampling.teachers.digit_sum import Options, Teacher, TeacherOptions, questions, soft_order

TRACE = ("plan", "derive", "check", "prose")


def solve_all(error_rate: float, modulus: int = 10, count: int = 2000, temperature: float = 1.0):
    teacher = Teacher(TeacherOptions(error_rate=error_rate))
    for seed, question in enumerate(questions({"train": count}, Options(modulus=modulus), 0)):
        yield question, teacher.solve(question, style="", temperature=temperature, seed=seed)


def digits_of(question: Question) -> list[int]:
    """Read from the text alone, not from the metadata."""
    inside = re.search(r"\((.*)\)", question.question)
    assert inside
    return [int(digit) for digit in inside[1].split(" + ")]


@pytest.mark.parametrize(("digits", "modulus"), [(5, 10), (3, 7), (8, 2)])
def test_questions_are_right_distinct_and_the_splits_share_no_multiset(digits: int, modulus: int) -> None:
    found = questions({"train": 300, "test": 90}, Options(digits=digits, modulus=modulus), 3)
    assert Counter(q.split for q in found) == {"train": 300, "test": 90}
    assert len({q.question for q in found}) == len({q.question_id for q in found}) == 390
    sets = {split: [tuple(sorted(digits_of(q))) for q in found if q.split == split] for split in ("train", "test")}
    assert not set(sets["train"]) & set(sets["test"])
    assert len(set(sets["test"])) == 90
    for question in found:
        assert len(digits_of(question)) == digits
        assert int(question.gold) == sum(digits_of(question)) % modulus


def test_equal_seeds_give_equal_questions_and_test_questions_do_not_depend_on_training_ones() -> None:
    first = questions({"train": 50, "test": 20}, Options(), 1)
    assert first == questions({"train": 50, "test": 20}, Options(), 1)
    assert first != questions({"train": 50, "test": 20}, Options(), 2)
    more = questions({"train": 400, "test": 20}, Options(), 1)
    assert [q for q in more if q.split == "test"] == [q for q in first if q.split == "test"]
    assert more[:50] == first[:50]


@pytest.mark.parametrize("digits", [5, 8])
def test_validation_questions_share_no_multiset_either_and_leave_the_test_as_it_is(digits: int) -> None:
    without = questions({"train": 100, "test": 50}, Options(digits=digits), 4)
    found = questions({"train": 100, "test": 50, "validation": 40}, Options(digits=digits), 4)
    assert [q for q in found if q.split == "test"] == [q for q in without if q.split == "test"]
    sets = {
        split: {tuple(sorted(digits_of(q))) for q in found if q.split == split}
        for split in ("train", "test", "validation")
    }
    assert len(sets["validation"]) == 40
    assert not sets["validation"] & (sets["train"] | sets["test"])
    assert not sets["train"] & sets["test"]
    with pytest.raises(InputError, match="90 training and 30 held-out questions"):
        questions({"train": 90, "test": 15, "validation": 15}, Options(digits=2), 0)


@pytest.mark.parametrize(("digits", "train", "test"), [(2, 90, 20), (2, 10, 28), (3, 901, 99), (7, 10, 6000)])
def test_too_few_questions_are_refused(digits: int, train: int, test: int) -> None:
    with pytest.raises(InputError, match="too few for"):
        questions({"train": train, "test": test}, Options(digits=digits), 0)


@pytest.mark.parametrize("modulus", [2, 7, 10])
def test_without_errors_every_trace_is_right_by_an_independent_reading(modulus: int) -> None:
    for question, solution in solve_all(0.0, modulus, 300):
        order = [int(d) for d in solution.trace.split(".")[0].removeprefix("Order ").split(",")]
        assert sorted(order) == sorted(digits_of(question))
        steps = re.findall(r"(\d+)\+(\d)=(\d+)\.", solution.trace.split("Check")[0])
        total = order[0]
        for (a, b, c), digit in zip(steps, order[1:], strict=True):
            assert (int(a), int(b), int(c)) == (total, digit, total + digit)
            total += digit
        assert f"{total} mod {modulus}={total % modulus}." in solution.trace
        assert solution.answer == question.gold
        assert solution.trace.endswith(f"+{question.gold}={total}.")


def test_the_trace_is_short_and_its_spans_cover_it() -> None:
    kinds = Counter()
    for _, solution in solve_all(0.2, count=200):
        assert solution.spans is not None
        assert span_fault(solution.trace, solution.spans, TRACE) is None
        kinds.update(span.kind for span in solution.spans)
        for span in solution.spans:
            assert (span.kind == "derive") == ("=" in solution.trace[span.start : span.end] and span.kind != "check")
        tokens = re.findall(r"\d|[A-Za-z]+|[^\sA-Za-z\d]| (?=\d)", solution.trace)
        assert len(tokens) <= 72
    assert set(kinds) == set(TRACE)


def classify(question: Question, trace: str, modulus: int) -> list[str]:
    """What went wrong at each step of a trace, found from its text: none, misread, cancel or slip."""
    order = [int(d) for d in trace.split(".")[0].removeprefix("Order ").split(",")]
    steps = [tuple(map(int, s)) for s in re.findall(r"(\d+)\+(\d)=(\d+)\.", trace.split("Check")[0])]
    found = []
    for (a, b, c), digit in zip(steps, order[1:], strict=True):
        if a + b == c:
            found.append("none" if b == digit else "misread")
        else:
            found.append("cancel" if (a + b - c) % modulus == 0 else "slip")
    reduced = re.search(rf"(\d+) mod {modulus}=(\d+)\.", trace)
    assert reduced
    found.append("none" if int(reduced[1]) % modulus == int(reduced[2]) else "reduce")
    return found


@pytest.mark.parametrize("modulus", [2, 10])
def test_errors_come_as_often_and_in_the_shares_that_the_teacher_states(modulus: int) -> None:
    rate, verdicts, right = 0.2, Counter(), 0
    for question, solution in solve_all(rate, modulus, 4000):
        errors = classify(question, solution.trace, modulus)
        verdicts.update(errors)
        right += solution.answer == question.gold
        if all(error in ("none", "cancel") for error in errors):
            assert solution.answer == question.gold
        if sum(error not in ("none", "cancel") for error in errors) == 1:
            assert solution.answer != question.gold
        assert f" mod {modulus}={solution.answer}." in solution.trace

    def within(count: int, trials: int, probability: float) -> bool:
        return abs(count - trials * probability) < 4.5 * math.sqrt(trials * probability * (1 - probability))

    additions = 4 * 4000
    assert within(verdicts["reduce"], 4000, rate)
    assert within(verdicts["misread"], additions, rate * 0.25)
    assert within(verdicts["cancel"], additions, rate * 0.15)
    assert within(verdicts["slip"], additions, rate * 0.60)
    assert right < 4000


def test_temperature_zero_keeps_the_given_order_and_higher_ones_spread_it_as_a_softmax() -> None:
    for question, solution in solve_all(0.0, count=50, temperature=0.0):
        assert solution.trace.startswith(f"Order {','.join(map(str, digits_of(question)))}. Let me add.")
    for temperature in (0.5, 1.0, 8.0):
        draws, rng = 4000, random.Random(5)
        firsts = Counter(soft_order(4, temperature, rng)[0] for _ in range(draws))
        weights = [math.exp(-position / temperature) for position in range(4)]
        for position in range(4):
            p = weights[position] / sum(weights)
            assert abs(firsts[position] - draws * p) < 4.5 * math.sqrt(draws * p * (1 - p)), (temperature, position)


def test_a_question_of_another_source_is_refused() -> None:
    with pytest.raises(InputError, match="solves questions of the source digit_sum only"):
        Teacher(TeacherOptions()).solve(Question("x", "Why?", "1", "train"), style="", temperature=1, seed=0)
