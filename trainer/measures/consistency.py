"""What several answers to a question are worth: the best of them, and votes, as curves over their number k.

Each is the expectation over all choices of k of the n samples that were drawn, so it has no bias and does not depend on
their order. ``pass`` and ``majority`` are counted exactly (``yields.estimators``), and so is ``sound``; a vote weighted
by likelihood is taken over all choices where they are few, else over choices drawn by the seed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tracestill.data_pipeline.yields.estimators import majority_at, pass_at
from tracestill.trainer.measures.spread import mean
from tracestill.trainer.measures.votes import NONE, RIGHT

Row = dict[str, Any]
CHOICES = 1024  # of k samples among n: more are drawn
NEVER = 0.0  # the weight of what votes for nothing


@dataclass(frozen=True)
class Drawn:
    """n samples of each of Q questions."""

    vote: np.ndarray  # (Q, n) int: RIGHT for right answers, NONE for none, equal for equal wrong ones
    weight: np.ndarray | None  # (Q, n) of each vote; None: likelihoods are not told
    sound: np.ndarray  # (Q, n) bool: no step of the trace is known to be false

    @property
    def right(self) -> np.ndarray:
        return self.vote == RIGHT


def curve(drawn: Drawn, ks: Sequence[int], seed: int) -> list[Row]:
    """A row for each k: ``pass`` (at least one is right), ``majority``, ``weighted`` (None without likelihoods) and
    ``sound`` (one of those that are), each as ``spread.mean`` over questions."""
    questions, n = drawn.vote.shape
    of = np.repeat(np.arange(questions), n)
    rows = []
    for k in ks:
        found = {
            "pass": pass_at(np.full(questions, n), drawn.right.sum(axis=1), k),
            "majority": majority_at(of, drawn.vote.ravel(), drawn.right.ravel(), questions, k),
            "sound": sound_at(drawn, k),
        }
        if drawn.weight is not None:
            found["weighted"] = weighted_at(drawn.vote, drawn.weight, k, seed)
        rows.append({"k": k, "weighted": None, **{name: mean(values, seed) for name, values in found.items()}})
    return rows


def weighted_at(vote: np.ndarray, weight: np.ndarray, k: int, seed: int) -> np.ndarray:
    """(Q,) P(the answer of most weight among k samples is right); of several of equal weight each has equal chance."""
    chosen = choices(vote.shape[1], k, seed)
    return np.array([won(votes, weights, chosen) for votes, weights in zip(vote, weight, strict=True)])


def won(
    vote: np.ndarray,  # (n,)
    weight: np.ndarray,  # (n,)
    chosen: np.ndarray,  # (C, n) 0 or 1: which samples vote
) -> float:
    names = [RIGHT, *(name for name in np.unique(vote).tolist() if name not in (RIGHT, NONE))]
    of_vote = (vote[:, None] == np.array(names)) * weight[:, None]  # (n, V)
    sums = chosen @ of_vote
    most = sums.max(axis=1, keepdims=True)
    best = np.isclose(sums, most, rtol=1e-12, atol=0) & (most > NEVER)
    return float((best[:, 0] / np.maximum(best.sum(axis=1), 1)).mean())


def choices(n: int, k: int, seed: int) -> np.ndarray:
    """(C, n) float64 0 or 1: all choices of k among n, or if they are many, CHOICES that are drawn."""
    if math.comb(n, k) <= CHOICES:
        chosen = np.array(list(itertools.combinations(range(n), k)))
    else:
        chosen = np.argsort(np.random.default_rng((seed, n, k)).random((CHOICES, n)), axis=1)[:, :k]
    found = np.zeros((len(chosen), n))
    np.put_along_axis(found, chosen, 1.0, axis=1)
    return found


def sound_at(drawn: Drawn, k: int) -> np.ndarray:
    """(Q,) P(right), if of k samples one is taken at random of the sound ones that have an answer, or else of those
    that have one. A choice at random from a choice at random is as good as any: only whether there is one counts."""
    said = drawn.vote != NONE
    n = said.shape[1]
    first = said & drawn.sound
    rest = said & ~drawn.sound
    found = np.zeros(len(said))
    any_first = pass_at(np.full(len(said), n), first.sum(axis=1), k)
    any_said = pass_at(np.full(len(said), n), said.sum(axis=1), k)
    for chance, group in ((any_first, first), (any_said - any_first, rest)):
        count = group.sum(axis=1)
        found += chance * (group & drawn.right).sum(axis=1) / np.maximum(count, 1)
    return found


def confidence(
    vote: np.ndarray,  # (Q, n)
    weight: np.ndarray,  # (Q, n) of each vote
) -> tuple[np.ndarray, np.ndarray]:
    """Of each question that has an answer, the share of the weight of all n samples that the answer of most weight has,
    and 1 if that one is right, else 0: (R,) each. Of equal ones, that whose sample came first counts."""
    share, right = [], []
    for votes, weights in zip(vote, weight, strict=True):
        names = [name for name in dict.fromkeys(votes.tolist()) if name != NONE]
        if not names:
            continue
        sums = [float(weights[votes == name].sum()) for name in names]
        best = int(np.argmax(sums))
        share.append(sums[best] / float(weights.sum()))
        right.append(float(names[best] == RIGHT))
    return np.array(share), np.array(right)
