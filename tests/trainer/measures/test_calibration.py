"""Calibration against the formulas as they are written in papers."""

from __future__ import annotations

import numpy as np
import pytest

from tracestill.trainer.measures.calibration import auroc, calibration


def test_ece_and_brier_by_loops() -> None:
    draw = np.random.default_rng(7)
    confidence = draw.random(200)
    right = (draw.random(200) < confidence**2).astype(float)
    found = calibration(confidence, right, bins=10)
    order = np.argsort(confidence)
    ece = 0.0
    for bin_ in np.array_split(order, 10):
        ece += (
            len(bin_)
            / 200
            * abs(sum(right[i] for i in bin_) / len(bin_) - sum(confidence[i] for i in bin_) / len(bin_))
        )
    assert found["ece"] == pytest.approx(ece)
    assert found["brier"] == pytest.approx(sum((c - r) ** 2 for c, r in zip(confidence, right, strict=True)) / 200)
    assert [row["count"] for row in found["table"]] == [20] * 10
    assert found["table"][3]["least"] == confidence[order[60]]
    assert found["table"][3]["most"] == confidence[order[79]]


def test_the_interval_of_ece_is_as_wide_as_other_answers_make_it() -> None:
    """Half of it is 1.96 times the spread of the ECE of as many answers of the same student, drawn anew."""
    draw = np.random.default_rng(3)

    def answers(n: int) -> tuple[np.ndarray, np.ndarray]:
        confidence = draw.integers(3, 9, n) / 8
        return confidence, (draw.random(n) < confidence - 0.3).astype(float)

    spread = np.std([calibration_of(*answers(200)) for _ in range(300)])
    halves = []
    for seed in range(8):
        found = calibration(*answers(200), 5, seed)
        assert found["ece_low"] < found["ece"] < found["ece_high"]
        halves.append((found["ece_high"] - found["ece_low"]) / 2)
    assert np.mean(halves) == pytest.approx(1.96 * spread, rel=0.12)
    found = calibration(np.full(20, 0.5), np.zeros(20), 5)
    assert found["ece_high"] - found["ece_low"] > 0.3, "twenty wrong answers do not mean that none will be right"
    same = answers(50)
    assert calibration(*same, 5, 1) == calibration(*same, 5, 1)


def calibration_of(confidence: np.ndarray, right: np.ndarray) -> float:
    """ECE in five bins of equally many, by loops; equal confidences share a bin, that of their middle."""
    order = np.sort(confidence)
    bins: dict[int, list[int]] = {}
    for at, value in enumerate(confidence):
        first, last = np.searchsorted(order, value), np.searchsorted(order, value, "right") - 1
        bins.setdefault(int(((first + last) / 2 + 0.5) * 5 / len(order)), []).append(at)
    return float(sum(abs(sum(right[i] - confidence[i] for i in own)) for own in bins.values()) / len(order))


def test_a_student_that_knows_has_no_error() -> None:
    confidence = np.repeat([0.25, 0.75], 8)
    right = np.array([1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0], float)
    found = calibration(confidence, right, bins=2)
    assert found["ece"] == 0
    assert found["brier"] == pytest.approx(0.25 * 0.75)
    assert found["brier_constant"] == 0.25


def test_auroc_counts_pairs() -> None:
    draw = np.random.default_rng(2)
    confidence = draw.integers(0, 6, 40) / 5
    right = (draw.random(40) < 0.4).astype(float)
    good, bad = confidence[right > 0], confidence[right == 0]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a in good for b in bad]
    assert auroc(confidence, right) == pytest.approx(sum(pairs) / len(pairs))
    assert auroc(confidence, np.ones(40)) is None


def test_nobody_answered() -> None:
    found = calibration(np.array([]), np.array([]), 10)
    assert (found["ece"], found["ece_low"], found["ece_high"]) == (None, None, None)
