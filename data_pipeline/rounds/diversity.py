"""How many ways of solving a round's traces hold: pure functions, of paths, strategies and words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

ORDER = 4  # of self-BLEU: runs of 1 to 4 words
OTHERS = 8  # traces of a question that are compared with each other, at most


def paths_a_question(paths: Mapping[str, Sequence[str]]) -> float:
    """Mean number of distinct paths of a question that has a trace at all. It grows with the number of traces."""
    held = [len(set(own)) for own in paths.values() if own]
    return sum(held) / len(held) if held else 0.0


def differing(paths: Mapping[str, Sequence[str]]) -> float | None:
    """The probability that two traces of a question, drawn without return, take different paths: the mean over the
    questions that have two, of 1 - sum n_i (n_i - 1) / (n (n - 1)) (Simpson, Nature 163, 1949), which does not depend
    on the number of traces. None without any such question."""
    found = []
    for own in paths.values():
        n = len(own)
        if n > 1:
            found.append(1 - sum(count * (count - 1) for count in Counter(own).values()) / (n * (n - 1)))
    return sum(found) / len(found) if found else None


def entropy(signatures: Iterable[str]) -> float:
    """Shannon's, in bits, of how often each occurs; 0 for none."""
    counts = Counter(signatures)
    total = counts.total()
    return sum(count / total * math.log2(total / count) for count in counts.values())


def coverage(first: Sequence[str], now: Sequence[str], rare: frozenset[str]) -> tuple[float, float] | None:
    """The share of the ``rare`` strategies of round 0 that occur among those of ``now``, and the share that as many
    draws from round 0's own frequencies would show on average, mean of 1 - (1 - p)^n. None if nothing is rare."""
    counts = Counter(first)
    if not rare or not counts:
        return None
    total, seen = counts.total(), set(now)
    chance = sum(1 - (1 - counts[each] / total) ** len(now) for each in rare) / len(rare)
    return len(rare & seen) / len(rare), chance


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
