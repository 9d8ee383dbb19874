"""What answers of several settings, or runs, say of them: intervals over seeds and questions, a paired test, many
comparisons at a time.

Seeds and questions are two sources of chance: another seed makes another student of the same setting, other questions
would be answered otherwise. An interval here reaches as far as either of them alone would have it, and what is to count
as a difference has to stand both tests.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from tracestill.data_pipeline.base.intervals import clustered, wilson
from tracestill.trainer.losses.intervals import mean_interval

Answers = Mapping[int, Mapping[str, bool]]  # seed -> question -> whether it was answered right
Between = tuple[float, float]


def t_quantile(freedom: int, level: float = 0.95) -> float:
    """The t between whose negative and itself ``level`` of Student's distribution lies, to 1e-12.

    The distribution's closed forms for whole degrees of freedom: Abramowitz and Stegun 26.7.3 and 26.7.4.
    """
    low, high = 0.0, 1.0
    while t_within(high, freedom) < level:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_within(middle, freedom) < level else (low, middle)
    return (low + high) / 2


def t_within(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's distribution."""
    angle = math.atan(t / math.sqrt(freedom))
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total


def over_seeds(values: Sequence[float]) -> Between | None:
    """Student's 95 % interval of the mean of one value a seed; None for fewer than two."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    mean = float(np.mean(values))
    return mean - half, mean + half


def t_test(differences: Sequence[float]) -> float | None:
    """Two-sided p of Student's t test that the mean of one value a seed is 0; None for fewer than two."""
    if len(differences) < 2:
        return None
    mean, spread = abs(float(np.mean(differences))), float(np.std(differences, ddof=1)) / math.sqrt(len(differences))
    if spread <= 1e-12 * mean:  # alike but for rounding
        return 0.0 if mean else 1.0
    return max(0.0, 1.0 - t_within(mean / spread, len(differences) - 1))


def widest(found: Sequence[Between | None], least: float) -> Between | None:
    """From the lowest end to the highest, within ``least`` and 1; None if there is none."""
    known = [between for between in found if between is not None]
    return (max(least, min(a for a, _ in known)), min(1.0, max(b for _, b in known))) if known else None


def share(right: Answers) -> tuple[float, Between | None]:
    """The share of right answers, seeds counting alike, and its 95 % interval: Student's t over seeds, Wilson's over
    questions of which each is a cluster of its seeds (of one seed, Wilson's own); the wider at each end."""
    by_seed = [float(np.mean(list(answers.values()))) for answers in right.values()]
    good, asked = Counter[str](), Counter[str]()
    for answers in right.values():
        good.update({name: int(correct) for name, correct in answers.items()})
        asked.update(answers.keys())
    if len(right) == 1:
        return by_seed[0], wilson(sum(good.values()), sum(asked.values()))
    names = list(asked)
    _, *ends = clustered(np.array([good[n] for n in names], float), np.array([asked[n] for n in names], float))
    return float(np.mean(by_seed)), widest([over_seeds(by_seed), (ends[0], ends[1])], 0.0)


def difference(a: Answers, b: Answers) -> dict[str, object] | None:
    """What setting ``b`` answers better than ``a``, paired by seed and question; None if they share none.

    ``mean`` and ``by_seed``; ``interval``: Student's t over seeds and the spread between questions, the wider at each
    end, and where no question differs as many as Wilson's bound leaves open; ``p_questions``: of ``sign_flips``;
    ``p_seeds``: of Student's paired t test over seeds, None for one; ``p``: the larger of them.
    """
    by_seed, sums, counts = [], Counter[str](), Counter[str]()
    for seed in a.keys() & b.keys():
        names = sorted(a[seed].keys() & b[seed].keys())
        if not names:
            continue
        gains = {name: int(b[seed][name]) - int(a[seed][name]) for name in names}
        by_seed.append((seed, float(np.mean(list(gains.values())))))
        sums.update(gains)
        counts.update(names)
    if not by_seed:
        return None
    names = list(counts)
    values = [mean for _, mean in sorted(by_seed)]
    most = wilson(0, len(names))[1]
    unseen = None if any(sums[name] for name in names) else (-most, most)
    of_questions, of_seeds = sign_flips([sums[name] for name in names]), t_test(values)
    gain, asked = (np.array([of[name] for name in names], float) for of in (sums, counts))
    return {
        "mean": float(np.mean(values)),
        "by_seed": values,
        "seeds": [seed for seed, _ in sorted(by_seed)],
        "questions": len(names),
        "interval": widest([over_seeds(values), mean_interval(gain, asked, names), unseen], -1.0),
        "p_questions": of_questions,
        "p_seeds": of_seeds,
        "p": max(of_questions, of_seeds or 0.0),
    }


def sign_flips(differences: Sequence[int]) -> float:
    """Two-sided p of a sum of whole numbers, each of whose signs would be a coin's if the settings were alike: exact.

    A question's differences of all seeds are one number, so they flip together. Of one seed this is McNemar's exact
    test. The distribution is that of sum_k k * (2 * Binomial(n_k, 1/2) - n_k) over the sizes k.
    """
    sizes = Counter(abs(value) for value in differences if value)
    whole, total = sum(differences), sum(k * n for k, n in sizes.items())
    chances = np.ones(1)  # of the sums -total, -total + 1, … of the sizes so far
    for size, count in sizes.items():
        own = np.zeros(2 * size * count + 1)
        logs = [math.lgamma(count + 1) - math.lgamma(j + 1) - math.lgamma(count - j + 1) for j in range(count + 1)]
        own[:: 2 * size] = np.exp(np.array(logs) - count * math.log(2))
        chances = convolve(chances, own)
    sums = np.arange(-total, total + 1)
    return float(min(1.0, chances[np.abs(sums) >= abs(whole)].sum()))


def convolve(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """As ``np.convolve``; long ones by Fourier's way, to 1e-15 of the largest."""
    if len(a) * len(b) < 1 << 24:
        return np.convolve(a, b)
    length = len(a) + len(b) - 1
    return np.clip(np.fft.irfft(np.fft.rfft(a, length) * np.fft.rfft(b, length), length), 0.0, None)


def holm(chances: Sequence[float]) -> list[float]:
    """Each p as Holm corrects it for their number (Scandinavian Journal of Statistics 6, 1979)."""
    found, most = [0.0] * len(chances), 0.0
    for place, at in enumerate(sorted(range(len(chances)), key=lambda i: chances[i])):
        most = max(most, min(1.0, (len(chances) - place) * chances[at]))
        found[at] = most
    return found
