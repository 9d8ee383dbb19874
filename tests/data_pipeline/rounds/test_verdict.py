"""When rounds end, which one is the best, and what is doubtful."""

import pytest

from tracestill.data_pipeline.rounds.config import StopConfig
from tracestill.data_pipeline.rounds.verdict import (
    after_training,
    before_training,
    best_of,
    seen_over_chance,
    student_warnings,
    warnings,
)


def trained(number, low, accuracy, high):
    return {"round": number, "accuracy_low": low, "accuracy": accuracy, "accuracy_high": high}


def traces(**changes):
    counts = {"traces": 200, "questions": 50, "pairs": 30}
    differ = {"differ": 0.9, "differ_same": 0.9, "differ_first": 0.9, "differ_error": 0.05}
    rare = {"coverage": 0.8, "coverage_by_chance": 0.8, "coverage_error": 0.05}
    return {**counts, **differ, **rare, "words": 20.0, **changes}


def test_the_best_round_is_the_first_of_the_most_accurate():
    rounds = [trained(0, 0.5, 0.6, 0.7), trained(1, 0.7, 0.8, 0.9), trained(2, 0.7, 0.8, 0.9)]
    assert best_of(rounds)["round"] == 1


@pytest.mark.parametrize(("high", "ends"), [(0.69, True), (0.7, False), (0.71, False)])
def test_a_round_ends_it_whose_whole_interval_lies_below_the_best(high, ends):
    rounds = [trained(0, 0.5, 0.6, 0.7), trained(1, 0.7, 0.8, 0.9), trained(2, 0.5, 0.6, high)]
    end = after_training(rounds, StopConfig())
    assert (end is not None) is ends
    assert not ends or (end.round, end.rule) == (2, "accuracy")
    assert not ends or "50.0% to 69.0%) lies below that of round 1 (70.0% to 90.0%)" in end.why
    assert after_training(rounds, StopConfig(accuracy=False)) is None


def test_the_best_round_is_no_end():
    assert after_training([trained(0, 0.5, 0.6, 0.7)], StopConfig()) is None


@pytest.mark.parametrize(("coverage", "stop", "ends"), [(0.3, 0.5, True), (0.4, 0.5, False), (0.3, None, False)])
def test_a_round_is_not_trained_whose_rare_strategies_are_gone(coverage, stop, ends):
    found = traces(coverage=coverage)  # over 0.8 by chance
    end = before_training(3, found, StopConfig(coverage=stop))
    assert (end is not None) is ends
    assert not ends or (end.round, end.rule) == (3, "coverage")
    few = {**found, "coverage_error": 0.26}  # as of the 20 right traces of a student that computes badly
    assert before_training(3, few, StopConfig(coverage=stop)) is None, "chance may do it"


@pytest.mark.parametrize(
    ("differ", "error", "stop", "ends"),
    [(0.44, 0.05, 0.5, True), (0.46, 0.05, 0.5, False), (0.44, 0.24, 0.5, False), (0.44, 0.05, None, False)],
)
def test_a_round_is_not_trained_whose_traces_are_alike(differ, error, stop, ends):
    found = traces(differ_same=differ, differ_error=error)  # of 0.9
    end = before_training(2, found, StopConfig(differ=stop))
    assert (end is not None) is ends
    assert not ends or (end.round, end.rule) == (2, "differ")
    assert not ends or "in 44% of cases, not in 90%" in end.why
    unknown = traces(differ=None, differ_same=None, differ_first=None, differ_error=None)
    assert before_training(2, unknown, StopConfig(differ=stop)) is None


def test_coverage_over_chance():
    assert seen_over_chance(traces(coverage=0.4)) == pytest.approx(0.5)
    assert seen_over_chance(traces(coverage=0.9)) == 1
    assert seen_over_chance(traces(coverage=None)) is None
    assert seen_over_chance(traces(coverage=0.0, coverage_by_chance=0.0)) is None
    assert before_training(1, traces(coverage=None), StopConfig()) is None


NONE_IN_BOTH = dict.fromkeys(("differ_same", "differ_first", "differ_error"))


@pytest.mark.parametrize(
    ("changes", "count", "said"),
    [
        ({}, 0, ""),
        ({"coverage": 0.6}, 1, "75%"),
        ({"coverage": 0.6, "coverage_error": 0.11}, 0, ""),
        ({"differ_same": 0.59}, 1, "differ in 59% of cases, not in 90%"),
        ({"differ": 0.1}, 0, ""),  # of questions, too, that round 0 did not solve twice
        ({"differ_same": 0.61}, 0, ""),
        ({"differ_same": 0.59, "differ_first": 0.8}, 0, ""),  # the questions that it solves twice have fewer ways
        ({"differ_same": 0.59, "differ_error": 0.16}, 0, ""),
        ({"pairs": 10}, 0, ""),
        ({"pairs": 9}, 1, "only 9 of 50 questions have two right traces"),
        ({"pairs": 0, "differ": None, **NONE_IN_BOTH}, 1, "only 0 of 50"),
        ({"pairs": 0, "traces": 99}, 0, ""),  # nobody asked for two
        ({"words": 31.0}, 1, "31.0 words"),
        ({"words": 13.0}, 1, "13.0 words"),
        ({"words": 29.0, **NONE_IN_BOTH}, 0, ""),
        ({"coverage": 0.1, "differ_same": 0.1, "words": 90.0}, 3, ""),
    ],
)
def test_warnings(changes, count, said):
    found = warnings(traces(), traces(**changes))
    assert len(found) == count
    assert said in "".join(found)


@pytest.mark.parametrize(
    ("share", "error", "doubtful"), [(0.39, 0.1, True), (0.41, 0.05, False), (0.39, 0.11, False), (None, None, False)]
)
def test_a_student_whose_own_samples_differ_less(share, error, doubtful):
    """Of the questions that both have solved twice, whatever all that either has solved say."""
    of_all = {"share": 0.6, "low": 0.5, "high": 0.7, "questions": 40}
    both = None if share is None else {"now": share, "first": 0.6, "error": error, "questions": 12}
    found = student_warnings({"apart": of_all}, {"apart": of_all, "apart_beside": both})
    assert bool(found) is doubtful
    assert not doubtful or found[0].endswith(
        "different paths in 39.0% of cases, round 0's to the same questions in 60.0%"
    )
    less = {"share": 0.1, "low": 0.05, "high": 0.15, "questions": 40}
    others = {"now": 0.5, "first": 0.5, "error": 0.01, "questions": 12}
    assert student_warnings({"apart": of_all}, {"apart": less, "apart_beside": others}) == [], "of other questions"
