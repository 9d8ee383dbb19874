"""How many ways of solving a round's traces hold: pure functions, of paths, strategies and words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

ORDER = 4  # of self-BLEU: runs of 1 to 4 words
OTHERS = 8  # traces of a question that are compared with each other, at most


class Beside(NamedTuple):
    """How often traces differ, and differed in round 0, of the same questions."""

    now: float  # ``differing`` of these
    first: float  # and of round 0
    error: float  # standard error of what is differing less, or more, by now
    questions: int


class Covered(NamedTuple):
    """What is seen of the rare strategies."""

    share: float
    chance: float  # the share that as many draws from round 0's own frequencies would show
    error: float  # standard deviation of that share, at most


def paths_a_question(paths: Mapping[str, Sequence[str]]) -> float:
    """Mean number of distinct paths of a question that has a trace at all. It grows with the number of traces."""
    held = [len(set(own)) for own in paths.values() if own]
    return sum(held) / len(held) if held else 0.0


def differing(paths: Mapping[str, Sequence[str]]) -> float | None:
    """The probability that two traces of a question, drawn without return, take different paths: the mean over the
    questions that have two, of 1 - sum n_i (n_i - 1) / (n (n - 1)) (Simpson, Nature 163, 1949), which does not depend
    on the number of traces. None without any such question."""
    found = [apart(own) for own in paths.values() if len(own) > 1]
    return fmean(found) if found else None


def apart(own: Sequence[str]) -> float:
    """``differing`` of one question."""
    n = len(own)
    return 1 - sum(count * (count - 1) for count in Counter(own).values()) / (n * (n - 1))


def beside(paths: Mapping[str, Sequence[str]], first: Mapping[str, Sequence[str]]) -> Beside | None:
    """Both rounds' traces of those questions that have two in each: which questions a student solves twice decides
    how many ways there are. None for fewer than two such questions."""
    both = [key for key, own in paths.items() if len(own) > 1 and len(first.get(key, ())) > 1]
    if len(both) < 2:
        return None
    now, before = ([apart(of[key]) for key in both] for of in (paths, first))
    changes = [was - by_now for was, by_now in zip(before, now, strict=True)]
    return Beside(fmean(now), fmean(before), stdev(changes) / math.sqrt(len(both)), len(both))


def entropy(signatures: Iterable[str]) -> float:
    """Shannon's, in bits, of how often each occurs; 0 for none."""
    counts = Counter(signatures)
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def coverage(first: Sequence[str], now: Sequence[str], rare: frozenset[str]) -> Covered | None:
    """The share of the ``rare`` strategies of round 0 that occur among those of ``now``, beside what chance would show:
    each with 1 - (1 - p)^n. That one is drawn makes others rarer, so their variances add up to more than that of the
    sum. None if nothing is rare."""
    counts = Counter(first)
    if not rare or not counts:
        return None
    total, seen = counts.total(), set(now)
    each = [1 - (1 - counts[name] / total) ** len(now) for name in sorted(rare)]
    error = math.sqrt(sum(p * (1 - p) for p in each)) / len(rare)
    return Covered(len(rare & seen) / len(rare), fmean(each), error)


def self_bleu(texts: Mapping[str, Sequence[Sequence[str]]]) -> float | None:
    """Mean BLEU-4 of each trace against the other ones of its question (Zhu et al., arXiv 1802.01886): 1 where all say
    the same. ``texts``: question -> traces as words; of each question the first ``OTHERS`` count. None if no question
    has two."""
    found = []
    for own in texts.values():
        some = [list(words) for words in own[:OTHERS] if words]
        found += [bleu(words, [*some[:at], *some[at + 1 :]]) for at, words in enumerate(some) if len(some) > 1]
    return sum(found) / len(found) if found else None


def bleu(words: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """BLEU of one text without smoothing (Papineni et al., ACL 2002), of runs of up to ``ORDER`` words, or of all its
    words where it has fewer: the geometric mean of clipped precisions, times the penalty of being shorter than the
    reference whose length is nearest (the shorter of two)."""
    order = min(ORDER, len(words))
    logs = 0.0
    for n in range(1, order + 1):
        own = runs(words, n)
        most: Counter[tuple[str, ...]] = Counter()
        for reference in references:
            most |= runs(reference, n)
        shared = (own & most).total()
        if not shared:
            return 0.0
        logs += math.log(shared / own.total()) / order
    nearest = min((len(reference) for reference in references), key=lambda length: (abs(length - len(words)), length))
    return math.exp(logs + min(0.0, 1 - nearest / len(words)))


def runs(words: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[at:] for at in range(n)), strict=False))
