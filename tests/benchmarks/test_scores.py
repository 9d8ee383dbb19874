"""benchmarks/scores.py: its arithmetic on made-up answers, and which tokens its own weighting takes."""

import numpy as np
import pytest
from real_data import benchmark

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.weighting import Document, WeightingConfig

KINDS = Kinds()


@pytest.fixture(scope="module")
def scores():
    with benchmark("scores") as script:
        yield script


def rows(scores, *, weighted=20):
    """Two seeds of 40 questions: `nll20` is right where its control is, and on 10 questions more."""
    found, arms = [], [MAIN_ARM, *scores.ARMS]
    for seed in (0, 1):
        right = {arm: {f"q{i}": i < 10 for i in range(40)} for arm in [scores.BEFORE, *arms]}
        right["nll20"] = {f"q{i}": i < 20 for i in range(40)}
        about = {arm: {"trace_targets": 100, "weighted": 20, "plan": ["a"], "steps": 9} for arm in arms}
        about["nll20"]["weighted"] = weighted
        found.append({"seed": seed, "right": right, "about": about})
    return found


def test_a_difference_is_taken_question_by_question(scores):
    found = scores.summary(rows(scores))
    assert found["nll20"]["right"]["mean"] == 0.5
    assert found["nll20"]["minus_random"]["mean"] == 0.25
    assert found["nll20"]["minus_random"]["by_seed"] == [0.25, 0.25]
    low, high = found["nll20"]["minus_random"]["interval_95"]
    half = 1.96 * np.sqrt(0.25 * 0.75 / 79)  # of 80 questions, 20 of which differ by one
    assert (low, high) == (pytest.approx(0.25 - half, abs=1e-3), pytest.approx(0.25 + half, abs=1e-3))
    assert found["entropy20"]["minus_random"]["interval_95"] == (0.0, 0.0)
    assert "minus_random" not in found[MAIN_ARM]
    assert found["first30"]["minus_last"]["by_seed"] == [0, 0]
    kept = scores.told({"seed": 3, "right": {"nll20": {"q2": False, "q1": True}, "all": {"q1": False, "q2": False}}})
    assert kept == {"seed": 3, "right": {"nll20": "10", "all": "00"}}


def test_the_first_part_is_compared_with_the_last(scores):
    made = rows(scores)
    for row in made:
        row["right"]["last30"] = {f"q{i}": i < 10 + 4 * row["seed"] for i in range(40)}
    found = scores.summary(made)["first30"]["minus_last"]
    assert found["by_seed"] == [0, pytest.approx(-0.1)]
    assert found["mean"] == pytest.approx(-0.05)


def test_arms_that_are_not_matched_fail_a_claim(scores):
    assert all(one["holds"] for one in scores.claims_of(rows(scores), scores.summary(rows(scores))))
    unequal = rows(scores, weighted=30)
    failed = [one["name"] for one in scores.claims_of(unequal, scores.summary(unequal)) if not one["holds"]]
    assert failed == ["nll20: weighted share of the trace, distance from random20's"]
    other = rows(scores)
    other[1]["about"]["first30"]["plan"] = ["b"]
    failed = [one["name"] for one in scores.claims_of(other, scores.summary(other)) if not one["holds"]]
    assert failed == ["different plans within a seed"]


def test_a_part_of_a_trace_is_its_beginning_or_its_end():
    kinds = np.array([7, 1, 1, 7, *[2] * 4, *[3] * 6, 7, 6, 7], np.uint8)
    document = Document(0, np.arange(len(kinds)), kinds, np.zeros(len(kinds), np.uint16))
    inside = np.flatnonzero(KINDS.mask(["trace"])[kinds])
    with benchmark("scores_parts") as script:
        for end, kept in ((False, inside[:3]), (True, inside[-3:])):
            options = {"share": 0.3, "end": end}
            part = script.Part(WeightingConfig.model_construct(options=options, weights={}), KINDS)
            weights = part.tokens(document, 0)
            assert inside[weights[inside] == 1].tolist() == kept.tolist()
            assert (np.delete(weights, inside) == 1).all()
