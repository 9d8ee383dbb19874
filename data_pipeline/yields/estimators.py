"""What k samples of a question would give, from the n that were drawn: at least one right, and a right majority.

Both are means over all choices of k of the n, so they have no bias; one question of n = k gives what was seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

MOST = 64  # k is no larger


def ks(most: int) -> list[int]:
    """1, 2, 4, … and the number of samples itself, ``MOST`` at the most."""
    most = min(most, MOST)
    powers = [1 << at for at in range(most.bit_length()) if 1 << at <= most]
    return powers if most in powers or not most else [*powers, most]


def pass_at(asked: np.ndarray, right: np.ndarray, k: int) -> np.ndarray:
    """P(at least one of k samples is right) of each question, NaN where fewer than k were asked.

    1 - C(n - c, k) / C(n, k), as a product (Chen et al. 2021, arXiv 2107.03374). ``asked`` and ``right``: (Q,) counts.
    """
    asked, wrong = asked.astype(np.float64), (asked - right).astype(np.float64)
    none = np.ones(len(asked))
    with np.errstate(divide="ignore", invalid="ignore"):
        for at in range(k):
            none *= np.clip((wrong - at) / (asked - at), 0.0, None)
    return np.where(asked >= k, 1.0 - none, np.nan)


def majority_at(question: np.ndarray, votes: np.ndarray, right: np.ndarray, questions: int, k: int) -> np.ndarray:
    """P(the most frequent answer of k samples is right) of each question, NaN where fewer than k were asked.

    (S,) each: the sample's question, its answer as a number (-1: none, which votes for nothing), whether it is right.
    All right answers are one, and of several that are equally frequent each is taken with equal chance.
    """
    found = np.full(questions, np.nan)
    asked = np.bincount(question, minlength=questions)
    good = np.bincount(question[right], minlength=questions)
    wrong = ~right & (votes >= 0)
    order = np.lexsort((votes[wrong], question[wrong]))
    of, answer = question[wrong][order], votes[wrong][order]
    first = np.ones(len(of), bool)
    first[1:] = (of[1:] != of[:-1]) | (answer[1:] != answer[:-1])
    starts = np.flatnonzero(first)
    sizes, owners = np.diff(np.append(starts, len(of))), of[starts]
    rest: list[Sequence[int]] = [()] * questions
    ends = np.searchsorted(owners, np.arange(questions + 1))
    ordered = sizes[np.lexsort((sizes, owners))].tolist()
    for at in np.flatnonzero(np.diff(ends)).tolist():
        rest[at] = ordered[ends[at] : ends[at + 1]]
    for at in np.flatnonzero(asked >= k).tolist():
        found[at] = right_majority(int(asked[at]), int(good[at]), tuple(rest[at]), k)
    return found


@lru_cache(maxsize=1 << 16)
def right_majority(asked: int, right: int, wrong: tuple[int, ...], k: int) -> float:
    """P(k of ``asked`` samples have a right majority), where ``right`` are right and ``wrong`` says how often each
    other answer was given, sorted; the others gave none. Exact: counts choices with the right one in it j times."""
    silent = asked - right - sum(wrong)
    total = 0.0
    for j in range(1, min(right, k) + 1):
        degree = k - j
        rivals = [size for size in wrong if size >= j]  # the others cannot come as often: any choice of them will do
        rest = silent + sum(wrong) - sum(rivals)
        ways = np.zeros((min(degree // j, len(rivals)) + 1, degree + 1))  # [that come j times too, samples so far]
        ways[0] = [math.comb(rest, taken) for taken in range(degree + 1)]
        for size in rivals:
            ways = with_answer(ways, size, j)
        chances = ways[:, degree] / np.arange(1, len(ways) + 1)
        total += math.comb(right, j) * float(chances.sum())
    return total / math.comb(asked, k)


def with_answer(ways: np.ndarray, size: int, j: int) -> np.ndarray:
    """The ways when another answer, given ``size`` times, joins in: fewer than j times, or j times, which is a tie."""
    degree = ways.shape[1] - 1
    found = np.zeros_like(ways)
    for taken in range(min(size, j, degree) + 1):
        moved = math.comb(size, taken) * ways[:, : degree + 1 - taken]
        if taken < j:
            found[:, taken:] += moved
        else:
            found[1:, taken:] += moved[:-1]
    return found
