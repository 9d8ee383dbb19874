"""How far the traces of one question are from each other, in words; what it costs is bounded, however many there are.

The work of a comparison of two texts is about the product of their lengths over 64 (they are compared by bits), and
``WORK`` of it takes seconds. Within that everything is exact. Beyond it, distances are summed to some of the traces,
drawn by their ids, and so many are put in the order of their distances as it pays for. What is done follows from the
texts alone, never from the time it takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from rapidfuzz.distance import Indel, Levenshtein
from rapidfuzz.process import cdist

from tracestill.data_pipeline.base.workers import cores

WORK = 1_500_000_000  # about 5 ns each on one slow core
EACH = 200  # work that a comparison takes whatever the lengths
MATRIX = 2048  # texts of which all distances are held: 16 MiB
LEAST = 8  # texts to which distances are summed, however long they are
MANY = 50_000  # words of a question's traces for which threads are worth their start
FIRST_SIGN = 0x10000  # a word of a question becomes one character from here on; there are a million
ROUNDING = 1e-6  # of shares: what is just as similar as it has to be is not passed over
BUCKETS = 256  # of words, to see without a comparison that two texts cannot be nearly the same


class Distances:
    """Words to insert, delete or replace to make one trace of a question another one."""

    def __init__(self, texts: Sequence[str], order: Sequence[int]) -> None:
        """``texts``: of ``as_text``; ``order``: their numbers; distances are summed to the first ones."""
        self.texts = texts
        total = sum(map(len, self.texts))
        self.threads = cores() if total > MANY else 1
        row = work(self.texts, total) / max(1, len(self.texts))
        self.affordable = max(LEAST, int(WORK / row)) if row else len(self.texts)
        self.exact = len(self.texts) <= min(MATRIX, 2 * self.affordable)  # a whole matrix is computed by halves
        self.matrix = self._to(self.texts) if self.exact else None
        self.drawn = list(order[: min(self.affordable, MATRIX)])

    def _to(self, others: Sequence[str]) -> np.ndarray:
        """(n, m) int32"""
        found: np.ndarray = cdist(self.texts, others, scorer=Levenshtein.distance, dtype=np.int32, workers=self.threads)
        return found

    def sums(self) -> np.ndarray:
        """(n,) int64: to all others, or to those drawn."""
        found = self._to([self.texts[at] for at in self.drawn]) if self.matrix is None else self.matrix
        summed: np.ndarray = found.sum(axis=1, dtype=np.int64)
        return summed

    def row(self, at: int) -> np.ndarray:
        """(n,) int32: of one to all."""
        row: np.ndarray = self._to([self.texts[at]])[:, 0] if self.matrix is None else self.matrix[at]
        return row

    def spread(self, order: Sequence[int], weightless: Sequence[bool]) -> Iterator[int]:
        """The order in which each is, of those left, the farthest from those before it, by the sum of distances (the
        first of equals in ``order``); those that weigh nothing come last."""
        places = np.asarray(order, np.int64)
        total = np.zeros(len(self.texts), np.int64)  # of each, to those found
        rows = len(places) if self.exact else self.affordable
        for last in (False, True):
            left = np.array([weightless[at] == last for at in order], bool)
            while left.any():
                if rows <= 0:  # the rest by what is known of them
                    rest = places[left]
                    yield from rest[np.argsort(-total[rest], kind="stable")].tolist()
                    break
                best = int(np.argmax(np.where(left, total[places], -1)))
                left[best] = False
                at = int(places[best])
                yield at
                total += self.row(at)
                rows -= 1


class Nearly:
    """Texts seen, to tell the first that has nearly the words of another one, in order."""

    def __init__(self, texts: Sequence[str], words: Sequence[np.ndarray], similarity: float) -> None:
        """``texts``: of ``as_text`` of ``words``."""
        self.texts, self.similarity = texts, similarity
        self.lengths = np.array([len(text) for text in texts], np.int64)
        self.bags = np.zeros((len(words), BUCKETS), np.uint16)
        for bag, each in zip(self.bags, words, strict=True):
            bag += np.bincount(each % BUCKETS, minlength=BUCKETS).astype(np.uint16)
        self.seen: list[int] = []  # each unlike the others

    def first(self, at: int) -> int | None:
        """The number of the first of those seen that is nearly the same; None if there is none, and this one is now
        seen. Of those that may be by their words alone, as many of the nearest are compared as ``WORK`` pays for."""
        others = np.array(self.seen, np.int64)
        if len(others):
            common = np.minimum(self.bags[others], self.bags[at]).sum(axis=1, dtype=np.int64)
            both = np.maximum(self.lengths[others] + self.lengths[at], 1)
            share = np.where(self.lengths[others] + self.lengths[at] == 0, 1.0, 2 * common / both)  # at most
            may = np.flatnonzero(share >= self.similarity - ROUNDING)
            most = self.affordable(at)
            if len(may) > most:
                may = np.sort(may[np.argsort(-share[may], kind="stable")[:most]])
            for block in np.array_split(may, range(16, len(may), 16)):
                found = cdist(
                    [self.texts[at]],
                    [self.texts[other] for other in others[block]],
                    scorer=Indel.normalized_similarity,
                    score_cutoff=max(0.0, self.similarity - ROUNDING),
                    dtype=np.float64,
                )[0]
                if len(hit := np.flatnonzero(found >= self.similarity)):
                    return int(others[block[hit[0]]])
        self.seen.append(at)
        return None

    def affordable(self, at: int) -> int:
        """Comparisons of one text."""
        length = int(self.lengths[at])
        return max(LEAST, int(2 * WORK / max(1, len(self.texts)) / (-(-length // 64) * length + EACH)))


def work(texts: Sequence[str], total: int) -> int:
    """That of all pairs, each in both directions."""
    return sum(-(-len(text) // 64) for text in texts) * total + EACH * len(texts) ** 2


def as_text(words: Sequence[np.ndarray]) -> list[str]:
    """Texts that have one character for each word, the same for the same one."""
    if not words:
        return []
    _, numbers = np.unique(np.concatenate(words), return_inverse=True)
    text = (numbers.astype("<u4") + FIRST_SIGN).tobytes()
    ends = 4 * np.cumsum([0, *(len(each) for each in words)])
    return [text[a:b].decode("utf-32-le") for a, b in pairwise(ends)]
