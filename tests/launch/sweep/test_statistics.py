"""What is said of settings, against other ways to compute it."""

import itertools
import math

import numpy as np
import pytest

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.launch.report.evaluation.chance import (
    convolve,
    difference,
    holm,
    over_seeds,
    share,
    sign_flips,
    t_quantile,
    t_test,
)


def answers(*right: int) -> dict[str, bool]:
    return {f"q{at}": bool(value) for at, value in enumerate(right)}


def test_quantiles_of_student():
    tables = {1: 12.7062047, 2: 4.3026527, 3: 3.1824463, 4: 2.7764451, 9: 2.2621572, 30: 2.0422725, 120: 1.9799304}
    for freedom, expected in tables.items():
        assert t_quantile(freedom) == pytest.approx(expected, abs=1e-7)
    assert t_quantile(5, 0.99) == pytest.approx(4.0321430, abs=1e-7)


def test_quantiles_and_tests_as_scipy_has_them():
    stats = pytest.importorskip("scipy.stats")
    for freedom in range(1, 40):
        assert t_quantile(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-10)
    for first, second in ((0, 0), (3, 1), (17, 4), (40, 39), (400, 300)):
        expected = stats.binomtest(first, first + second).pvalue if first + second else 1.0
        assert sign_flips([1] * first + [-1] * second + [0] * 9) == pytest.approx(expected, rel=1e-9)
    for values in ([0.1, 0.3, 0.2], [0.01, -0.02], [-0.5, -0.4, -0.45, -0.5, -0.6], [1e-3, 1.0]):
        assert t_test(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
    values = [0.61, 0.58, 0.7, 0.64]
    assert over_seeds(values) == pytest.approx(
        stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values)), rel=1e-9
    )


@pytest.mark.parametrize("values", [[1, 2, -1, 3, 1], [2, 2, -3, 1, 0, 1, 1], [-3, -3, -1], [0, 0], [1]])
def test_sign_flips_as_all_of_them_counted(values):
    whole = abs(sum(values))
    flips = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
             for signs in itertools.product((-1, 1), repeat=len(values))]  # fmt: skip
    assert sign_flips(values) == pytest.approx(sum(f >= whole for f in flips) / len(flips), rel=1e-12)


def test_long_distributions_go_by_fourier():
    rng = np.random.default_rng(0)
    a, b = rng.random(6000), rng.random(4000)
    np.testing.assert_allclose(convolve(a, b), np.convolve(a, b), rtol=1e-9)
    p = sign_flips([1] * 9000 + [-1] * 8700 + [2] * 5000 + [-2] * 4950)
    z = (300 + 100 - 1) / math.sqrt(17_700 + 4 * 9950)  # of lattice sums 2 apart, continuity half a step
    assert p == pytest.approx(math.erfc(z / math.sqrt(2)), abs=2e-3)


def test_holm():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_shares_of_one_seed_are_wilsons():
    assert share({0: answers(1, 1, 0, 1)}) == (0.75, wilson(3, 4))


def test_shares_reach_as_far_as_seeds_or_questions_do():
    """Seeds that agree leave the doubt about questions, and seeds that differ widen what questions say."""
    agree = {seed: answers(*[1] * 30 + [0] * 10) for seed in range(3)}
    mean, (low, high) = share(agree)
    assert mean == 0.75
    assert high - low == pytest.approx(np.diff(wilson(30, 40))[0], abs=0.01), "three times the same 40 questions"
    differ = {0: answers(*[1] * 40), 1: answers(*[1] * 20 + [0] * 20), 2: answers(*[1] * 30 + [0] * 10)}
    mean, (low, high) = share(differ)
    half = 4.3026527 * 0.25 / math.sqrt(3)
    assert (mean, low, high) == (0.75, pytest.approx(0.75 - half), 1.0)


def test_differences_pair_seeds_and_questions():
    first = {0: answers(1, 0, 0, 0), 1: answers(0, 0, 1, 0), 5: answers(1, 1, 1, 1)}
    second = {0: answers(1, 1, 1, 0), 1: {"q2": True, "q1": True, "other": True}}
    found = difference(first, second)
    assert found["by_seed"] == [0.5, 0.5]
    assert found["seeds"] == [0, 1]
    assert found["mean"] == 0.5
    assert found["questions"] == 4
    assert found["p"] == found["p_questions"] == sign_flips([0, 2, 1, 0]) == 0.5
    assert found["p_seeds"] == 0.0, "both seeds gain as much"
    low, high = found["interval"]
    assert low < 0.5 < high <= 1
    assert difference(first, {9: answers(1)}) is None
    assert difference(first, {0: {"else": True}}) is None


def test_a_question_that_both_seeds_gain_counts_twice():
    first = {0: answers(0, 0, 1, 1), 1: answers(0, 0, 0, 0)}
    second = {0: answers(1, 1, 0, 0), 1: answers(1, 1, 0, 0)}
    found = difference(first, second)
    assert found["p_questions"] == pytest.approx(12 / 16), "of the 16 sums of +-2 +-2 +-1 +-1 as many are 2 or more"


def test_one_seed_has_an_interval_over_questions():
    found = difference({0: answers(*[0] * 50)}, {0: answers(*[1] * 25 + [0] * 25)})
    low, high = found["interval"]
    half = 1.96 * math.sqrt(0.25 / 49)
    assert (low, high) == (pytest.approx(0.5 - half, abs=1e-3), pytest.approx(0.5 + half, abs=1e-3))
    assert found["p"] == pytest.approx(2 * 0.5**25)
    assert found["p_seeds"] is None


def test_settings_that_answer_alike_may_still_differ_elsewhere():
    both = {seed: answers(*[1] * 30) for seed in range(3)}
    found = difference(both, both)
    assert (found["mean"], found["p"]) == (0, 1)
    assert found["interval"] == pytest.approx((-wilson(0, 30)[1], wilson(0, 30)[1]))


def test_seeds_alone_seldom_pass_for_a_difference():
    """Settings that are alike, whose students differ by their seeds: questions alone are taken in, both are not."""
    rng = np.random.default_rng(5)
    runs, questions, seeds, taken_in, differs, covered = 300, 200, 3, 0, 0, 0
    for _ in range(runs):
        hard = rng.normal(0, 1.5, questions)
        drawn = rng.normal(0, 0.4, (2, seeds, 1)) + hard + rng.logistic(0, 1, (2, seeds, questions)) > 0
        first, second = ({s: answers(*one[s]) for s in range(seeds)} for one in drawn)
        found = difference(first, second)
        low, high = found["interval"]
        taken_in += found["p_questions"] < 0.05
        differs += found["p"] < 0.05
        covered += low <= 0 <= high
    assert taken_in / runs > 0.3
    assert differs / runs < 0.08
    assert covered / runs > 0.92
