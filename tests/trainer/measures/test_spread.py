"""Intervals and bins against plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from tracestill.trainer.measures.spread import bootstrap, equal_mass, mean, share, share_of_clusters


def test_the_bootstrap_is_that_of_a_loop_over_drawn_questions() -> None:
    draw = np.random.default_rng(3)
    counts = draw.integers(0, 4, 60).astype(float)
    sums = counts * draw.random(60)
    ratios = []
    for _ in range(4000):
        chosen = draw.choice(60, 60)
        ratios.append(sums[chosen].sum() / counts[chosen].sum())
    expected = np.percentile(ratios, [2.5, 97.5])
    assert bootstrap(sums, counts, seed=0) == pytest.approx(expected, abs=0.01)
    assert bootstrap(sums, counts, seed=0) == bootstrap(sums, counts, seed=0) != bootstrap(sums, counts, seed=1)


def test_a_bootstrap_of_a_share_is_a_binomial() -> None:
    from scipy.stats import binom

    right = np.array([1.0] * 30 + [0.0] * 70)
    low, high = binom.ppf([0.025, 0.975], 100, 0.3) / 100
    assert bootstrap(right, np.ones(100), seed=5) == pytest.approx((low, high), abs=0.011)


def test_draws_without_a_count_are_left_out() -> None:
    low, high = bootstrap(np.array([1.0, 0.0, 0.0]), np.array([1.0, 0.0, 0.0]), seed=0)
    assert (low, high) == (1.0, 1.0)


def test_many_questions_are_drawn_some_draws_at_a_time(monkeypatch) -> None:
    right, counts = np.arange(40) % 3 == 0, np.ones(40)
    whole = bootstrap(right, counts, seed=1)
    monkeypatch.setattr("tracestill.trainer.measures.spread.AT_A_TIME", 300)
    assert bootstrap(right, counts, seed=1) == pytest.approx(whole, abs=0.03)


def test_nothing_counted_has_no_share() -> None:
    nothing = {"count": 0, "share": None, "low": None, "high": None}
    assert share(0, 0) == mean(np.array([np.nan]), 0) == share_of_clusters(np.zeros(2), np.zeros(2)) == nothing


def test_a_share_of_clusters_is_wider_than_one_that_takes_all_as_independent() -> None:
    together = share_of_clusters(np.array([10.0, 0, 10, 0, 10, 0]), np.full(6, 10.0))
    alone = share(30, 60)
    assert together["share"] == alone["share"] == 0.5
    assert together["count"] == 60
    assert together["high"] - together["low"] > 2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("bins", [1, 2, 3, 7])
def test_bins_hold_equally_many_where_no_values_are_equal(bins: int) -> None:
    values = np.random.default_rng(0).permutation(21).astype(float)
    found = equal_mass(values, bins)
    by_rank = np.empty(21, int)
    by_rank[np.argsort(values)] = [min(int((rank + 0.5) * bins / 21), bins - 1) for rank in range(21)]
    assert found.tolist() == by_rank.tolist()
    assert max(np.bincount(found)) - min(np.bincount(found)) <= 1


def test_equal_values_share_a_bin_in_any_order() -> None:
    values = np.array([0.5, 1.0, 0.5, 0.25, 1.0, 1.0, 0.5, 1.0])
    order = np.random.default_rng(1).permutation(8)
    found = equal_mass(values, 4)
    assert equal_mass(values[order], 4).tolist() == found[order].tolist()
    for value in set(values.tolist()):
        assert len(set(found[values == value].tolist())) == 1
    assert equal_mass(np.array([0.0, 1, 1, 1, 1]), 2).tolist() == [
        0,
        1,
        1,
        1,
        1,
    ]  # that of the middle one, not the first
    assert sorted(set(found.tolist())) == list(range(len(set(found.tolist()))))
