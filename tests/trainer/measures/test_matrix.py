"""The matrix of tasks and variations, and paired intervals: against hand, simulation and a bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.trainer.measures.matrix import Form, Row, matrix
from tracestill.trainer.measures.spread import difference, share_of

FORMS = {
    "wording.a": Form("wording", True),
    "wording.b": Form("wording", True),
    "step": Form("step", False),
}


def rows(form: str, outcomes: str, task: str = "t", answers: str = "") -> list[Row]:
    """A question a character: r, w, c(annot tell), n(o answer), x (not asked), or - where it was not varied."""
    names = {"r": "right", "w": "wrong", "c": "cannot_tell", "n": "no_answer", "x": "not_asked"}
    said = answers or outcomes
    return [
        Row(task, form, f"q{at}", names[one], None if one in "nx" else said[at])
        for at, one in enumerate(outcomes)
        if one != "-"
    ]


def test_a_small_matrix_by_hand() -> None:
    found = matrix(
        [
            *rows("plain", "rrrwwnrr"),
            *rows("wording.a", "rrwwrcr-"),
            *rows("wording.b", "rwwwrnx-"),
            *rows("step", "rw------"),
            *rows("plain", "rw", "other"),
        ],
        FORMS,
    )
    plain, a = found["cells"]["t"]["plain"], found["cells"]["t"]["wording.a"]
    assert (plain["questions"], plain["right"], plain["wrong"], plain["no_answer"]) == (8, 5, 2, 1)
    assert plain["accuracy"] == {"count": 8, "share": 5 / 8, "low": wilson(5, 8)[0], "high": wilson(5, 8)[1]}
    assert "gain" not in plain
    assert (a["questions"], a["right"], a["wrong"], a["cannot_tell"]) == (7, 4, 2, 1)
    assert (a["plain"], a["accuracy"]["share"], a["lost"], a["won"]) == (4 / 7, 4 / 7, 1, 1)  # q2 lost, q4 won
    assert a["gain"]["share"] == pytest.approx(0)
    b = found["cells"]["t"]["wording.b"]
    assert (b["right"], b["not_asked"], b["lost"], b["won"]) == (2, 1, 3, 1)
    assert b["gain"]["share"] == pytest.approx(-2 / 7)
    family = found["families"]["t"]["wording"]
    assert family["accuracy"]["share"] == pytest.approx((1 + 0.5 + 0 + 0 + 1 + 0 + 0.5) / 7)
    assert (family["lost"], family["won"], family["right"]) == (3, 1, 6)
    # the same verdict in plain, a and b: q0 (right), q3, q5; the same answer: q0, q3
    consistent = family["consistent"]
    assert (consistent["questions"], consistent["forms"]) == (7, 3.0)
    assert consistent["rate"] == {"count": 7, "share": 3 / 7, "low": wilson(3, 7)[0], "high": wilson(3, 7)[1]}
    assert consistent["all_right"]["share"] == 1 / 7
    assert consistent["all_wrong"]["share"] == 2 / 7
    assert consistent["same_answer"]["share"] == 2 / 7
    assert found["consistency"] == {"t": consistent}  # a step more keeps no gold answer
    # of a, b and step together: q0 rrr, q1 rww, q2 ww, q3 ww, q4 rr, q5 cn, q6 rx
    varied = found["varied"]["t"]
    assert varied["accuracy"]["share"] == pytest.approx((1 + 1 / 3 + 0 + 0 + 1 + 0 + 0.5) / 7)
    assert (varied["plain"], varied["lost"], varied["won"], varied["right"]) == (4 / 7, 3, 1, 7)
    assert "other" not in found["varied"]
    assert list(found["families"]["t"]) == ["wording"]  # a single variation is no family
    assert list(found["cells"]["other"]) == ["plain"]
    assert found["families"]["other"] == {}


def test_the_same_wrong_answer_is_consistent_and_another_is_not() -> None:
    forms = {"wording.a": Form("wording", True)}
    told = [*rows("plain", "wwr", answers="556"), *rows("wording.a", "wwr", answers="546")]
    found = matrix(told, forms)["consistency"]["t"]
    assert [found[name]["share"] for name in ("rate", "all_right", "same_answer")] == [1.0, 1 / 3, 2 / 3]


def test_rows_that_make_no_matrix_are_refused() -> None:
    with pytest.raises(ValueError, match="two rows of the question q0"):
        matrix([*rows("plain", "r"), *rows("plain", "w")], FORMS)
    with pytest.raises(ValueError, match="the question q1 was not asked plainly"):
        matrix([*rows("plain", "r"), *rows("step", "rr")], FORMS)


def test_the_interval_of_a_difference_is_newcombes() -> None:
    """By hand from his formulas: 20 questions, right in both forms 8, only before 6, only after 2, in neither 4."""
    before = np.array([1.0] * 14 + [0.0] * 6)
    after = np.array([1.0] * 8 + [0.0] * 6 + [1.0] * 2 + [0.0] * 4)
    (l1, u1), (l2, u2) = wilson(10, 20), wilson(14, 20)
    phi = (8 * 4 - 6 * 2) / np.sqrt(14 * 6 * 10 * 10)
    d1, e1, d2, e2 = 0.5 - l1, u1 - 0.5, 0.7 - l2, u2 - 0.7
    low = -0.2 - np.sqrt(d1**2 - 2 * phi * d1 * e2 + e2**2)
    high = -0.2 + np.sqrt(d2**2 - 2 * phi * d2 * e1 + e1**2)
    assert difference(before, after) == pytest.approx({"share": -0.2, "low": low, "high": high})


@pytest.mark.parametrize(("moved", "fractions"), [(0.15, False), (0.35, False), (0.25, True)])
def test_the_interval_is_that_of_a_paired_bootstrap(moved: float, fractions: bool) -> None:
    draw = np.random.default_rng(1)
    before = (draw.random(600) < 0.6).astype(float)
    after = np.where(draw.random(600) < moved, draw.random(600) < 0.4, before).astype(float)
    if fractions:  # three forms a question
        after = (after + before + np.where(draw.random(600) < moved, 0.0, before)) / 3
    picked = draw.integers(0, 600, (4000, 600))
    low, high = np.percentile((after - before)[picked].mean(axis=1), [2.5, 97.5])
    found = difference(before, after)
    assert found["share"] == pytest.approx((after - before).mean())
    assert found["low"] == pytest.approx(low, abs=0.006)
    assert found["high"] == pytest.approx(high, abs=0.006)
    unpaired = np.hypot(*((of["high"] - of["low"]) / 2 for of in map(share_of, (before, after))))
    assert found["high"] - found["low"] < 1.9 * unpaired  # it knows that the questions are the same


def test_the_interval_holds_what_it_promises() -> None:
    draw, held = np.random.default_rng(0), 0
    for _ in range(400):
        before = draw.random(40) < 0.7
        after = np.where(draw.random(40) < 0.3, draw.random(40) < 0.3, before)
        found = difference(before.astype(float), after.astype(float))
        held += found["low"] <= 0.3 * (0.3 - 0.7) <= found["high"]
    assert 0.93 * 400 <= held <= 0.99 * 400


def test_no_difference_at_all_is_still_uncertain() -> None:
    same = np.ones(10)
    found = difference(same, same)
    assert found["share"] == 0
    assert found["low"] < -0.2
    assert found["high"] > 0.2
