"""Intervals of means: against the textbook where values are independent, and where documents share a question."""

from __future__ import annotations

import numpy as np
import pytest

from tracestill.data_pipeline.base.intervals import Z95
from tracestill.trainer.losses.intervals import mean_interval


def test_independent_values_give_the_standard_error() -> None:
    values = np.random.default_rng(0).normal(3, 2, size=50)
    low, high = mean_interval(values, np.ones(50), [str(i) for i in range(50)]) or (0, 0)
    assert low == pytest.approx(values.mean() - Z95 * values.std(ddof=1) / 50**0.5)
    assert (low + high) / 2 == pytest.approx(values.mean())


def test_what_is_said_twice_is_known_once() -> None:
    values = np.random.default_rng(1).normal(size=40)
    once = mean_interval(values, np.ones(40), [str(i) for i in range(40)])
    twice = mean_interval(np.repeat(values, 2), np.ones(80), [str(i // 2) for i in range(80)])
    assert twice == pytest.approx(once)


def test_it_covers_the_mean_of_documents_of_many_lengths() -> None:
    """2,000 draws of 60 documents whose tokens share an offset: 95 % of the intervals hold the true mean, or nearly."""
    draw, covered = np.random.default_rng(2), 0
    for _ in range(2000):
        counts = draw.integers(1, 30, size=60)
        sums = np.array([(1 + draw.normal(0, 0.5) + draw.normal(0, 1, n)).sum() for n in counts])
        low, high = mean_interval(sums, counts, [str(i) for i in range(60)]) or (0, 0)
        covered += low <= 1 <= high
    assert 0.92 < covered / 2000 < 0.965


def test_one_group_tells_nothing() -> None:
    assert mean_interval(np.array([1.0, 2.0]), np.array([1, 1]), ["a", "a"]) is None
    assert mean_interval(np.array([1.0, 0.0]), np.array([1, 0]), ["a", "b"]) is None, "the other has no such token"
