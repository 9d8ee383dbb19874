"""pass@k, maj@k and the intervals around them, against counting every choice and against drawing many times."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest

from tracestill.data_pipeline.base.intervals import clustered, wilson, z_of
from tracestill.data_pipeline.yields.estimators import ks, majority_at, pass_at


def every_choice(votes: list[int], right: list[bool], k: int) -> tuple[float, float]:
    """pass@k and maj@k by looking at each k of the samples."""
    passed = wins = Fraction(0)
    choices = list(combinations(range(len(votes)), k))
    for some in choices:
        passed += any(right[i] for i in some)
        counts = Counter("right" if right[i] else votes[i] for i in some if right[i] or votes[i] >= 0)
        best = [answer for answer, n in counts.items() if n == max(counts.values())]
        wins += Fraction(1, len(best)) if "right" in best else 0
    return float(passed / len(choices)), float(wins / len(choices))


def test_both_are_means_over_all_choices() -> None:
    """Questions of 1 to 8 samples together: right ones, ties, other answers, and samples that give none."""
    draw = random.Random(0)
    every = [[draw.randint(-1, 3) for _ in range(draw.randint(1, 8))] for _ in range(150)]
    every += [[-1, -1, -1], [0, 1], [0, 0, 1, 1, 2, 2], [2, 2, 2, 0], [-1, -1, -1, 0]]
    question = np.concatenate([np.full(len(votes), at) for at, votes in enumerate(every)])
    vote = np.concatenate(every)
    order = np.random.default_rng(0).permutation(len(vote))  # the samples of a question need not stand together
    asked = np.bincount(question)
    good = np.bincount(question[vote == 0], minlength=len(every))
    for k in range(1, 9):
        passes = pass_at(asked, good, k)
        majority = majority_at(question[order], vote[order], (vote == 0)[order], len(every), k)
        for at, votes in enumerate(every):
            if len(votes) < k:
                assert np.isnan(passes[at])
                assert np.isnan(majority[at])
            else:
                expected = every_choice(votes, [v == 0 for v in votes], k)
                assert (passes[at], majority[at]) == pytest.approx(expected, abs=1e-12)


def test_right_answers_are_one_however_they_are_written() -> None:
    votes, right = np.array([5, 6, 7, 7]), np.array([True, True, False, False])
    assert majority_at(np.zeros(4, int), votes, right, 1, 4)[0] == pytest.approx(0.5)


def test_many_samples_lose_no_precision() -> None:
    """40 right of 200, against exact binomials."""
    expected = 1 - Fraction(1)
    left = Fraction(1)
    for i in range(64):
        left *= Fraction(160 - i, 200 - i)
    expected = float(1 - left)
    assert pass_at(np.array([200]), np.array([40]), 64)[0] == pytest.approx(expected, rel=1e-12)
    votes = np.repeat(np.arange(5), 40)
    assert majority_at(np.zeros(200, int), votes, votes == 0, 1, 32)[0] == pytest.approx(0.2, rel=1e-9)


def test_k_doubles_up_to_the_number_of_samples() -> None:
    assert [ks(n) for n in (0, 1, 5, 8)] == [[], [1], [1, 2, 4, 5], [1, 2, 4, 8]]
    assert ks(500)[-1] == 64


def test_single_trials_have_wilsons_interval() -> None:
    found = clustered(np.array([1.0] * 30 + [0.0] * 70), np.ones(100))
    assert found == pytest.approx((0.3, *wilson(30, 100)), abs=2e-3)
    assert clustered(np.zeros(20), np.full(20, 5.0))[1:] == pytest.approx(wilson(0, 20))


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Questions differ in difficulty, so eight samples of one tell less than eight of eight; the plain interval, which
    takes them for independent, misses far too often."""
    draw = np.random.default_rng(1)
    hits = plain = 0
    for _ in range(400):
        right = draw.binomial(8, draw.beta(0.5, 0.5, 40))
        _, low, high = clustered(right.astype(float), np.full(40, 8.0))
        hits += low <= 0.5 <= high
        low, high = wilson(right.sum(), 320)
        plain += low <= 0.5 <= high
    assert 0.92 <= hits / 400 <= 0.98
    assert plain / 400 < 0.75


def test_more_comparisons_need_wider_intervals() -> None:
    assert z_of(1) == pytest.approx(1.95996, abs=1e-4)
    assert z_of(10) == pytest.approx(2.80703, abs=1e-4)
