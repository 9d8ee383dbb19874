"""Curves over k against every choice of k samples, made and counted one by one."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from tracestill.trainer.measures import consistency
from tracestill.trainer.measures.consistency import Drawn, confidence, curve

N = 5


def drawn(questions: int = 40, seed: int = 0) -> Drawn:
    draw = np.random.default_rng(seed)
    vote = draw.integers(-1, 4, (questions, N))
    return Drawn(vote, draw.integers(1, 6, (questions, N)) / 10, draw.random((questions, N)) < 0.5)


def shares(sums: dict[int, float]) -> float:
    """The chance that the best of some answers is right, of equal ones each with equal chance."""
    if not sums:
        return 0.0
    best = [name for name, total in sums.items() if abs(total - max(sums.values())) < 1e-9]
    return (0 in best) / len(best)


def one(choice: tuple[int, ...], vote, weight, sound, way: str) -> float:
    said = [i for i in choice if vote[i] != -1]
    if way == "pass":
        return float(any(vote[i] == 0 for i in said))
    if way == "majority":
        return shares(Counter(int(vote[i]) for i in said))
    if way == "weighted":
        sums: dict[int, float] = {}
        for i in said:
            sums[int(vote[i])] = sums.get(int(vote[i]), 0.0) + weight[i]
        return shares(sums)
    among = [i for i in said if sound[i]] or said
    return sum(vote[i] == 0 for i in among) / len(among) if among else 0.0


@pytest.mark.parametrize("way", ["pass", "majority", "weighted", "sound"])
def test_every_choice_counted(way: str) -> None:
    held = drawn()
    for row in curve(held, [1, 2, 3, N], seed=0):
        expected = [
            np.mean([one(choice, *each, way) for choice in itertools.combinations(range(N), row["k"])])
            for each in zip(held.vote, held.weight, held.sound, strict=True)
        ]
        assert row[way]["share"] == pytest.approx(np.mean(expected), abs=1e-12)
        assert row[way]["low"] <= row[way]["share"] <= row[way]["high"]


def test_without_likelihoods_there_is_no_weighted_vote() -> None:
    held = drawn()
    assert curve(Drawn(held.vote, None, held.sound), [2], seed=0)[0]["weighted"] is None


def test_choices_that_are_drawn_come_near_all_of_them(monkeypatch) -> None:
    held = drawn()
    whole = consistency.weighted_at(held.vote, held.weight, 3, seed=0).mean()
    monkeypatch.setattr(consistency, "CHOICES", 9)
    some = consistency.choices(N, 3, seed=0)
    assert some.shape == (9, N)
    assert some.sum(axis=1).tolist() == [3.0] * 9
    assert consistency.weighted_at(held.vote, held.weight, 3, seed=0).mean() == pytest.approx(whole, abs=0.1)


def test_confidence_is_the_share_of_the_most_frequent_answer() -> None:
    vote = np.array([[1, 0, 0, -1], [2, 1, 1, 2], [-1, -1, -1, -1], [0, 3, 3, 0]])
    share, right = confidence(vote, np.ones(vote.shape))
    assert share.tolist() == [0.5, 0.5, 0.5]  # nobody answered the third
    assert right.tolist() == [1.0, 0.0, 1.0]  # of equal ones the one that came first
    share, right = confidence(vote[:1], np.array([[8.0, 1.0, 1.0, 10.0]]))
    assert (share.tolist(), right.tolist()) == ([0.4], [0.0])
