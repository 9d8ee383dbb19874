"""Distinct paths: which traces of one question reason alike, and which of them stay.

After Yuan et al. 2023 (arXiv:2308.01825): traces with the same equations in the same order are one path, of which the
trace stays that is farthest from the question's others by the sum of edit distances. Traces without an equation are
compared word by word. Everything follows from the records, whatever their order: ties are broken by record ids, which
are hashes, so that no teacher is favoured.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from rapidfuzz.distance import Indel, Levenshtein
from rapidfuzz.process import cdist

from tracestill.data_pipeline.base.workers import cores
from tracestill.data_pipeline.selection.commuted import commuted
from tracestill.data_pipeline.soundness import Equation

LONGEST = 4096  # words of a trace that are compared
MANY = 50_000  # words of a question's traces for which threads are worth their start
FIRST_SIGN = 0x10000  # a word of a question becomes one character from here on; there are a million


class PathsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    same: Literal["equations", "commuted", "text", "off"] = Field(
        "equations",
        description="what makes two traces of a question the same path, of which one stays: equations (the same, in "
        "the same order; traces without any: nearly the same words), commuted (likewise, and 3 + 4 is 4 + 3), text "
        "(nearly the same words), off (nothing)",
    )
    similarity: float = Field(
        0.9, gt=0, le=1, description="share of the words that two texts have in common, in order, to be nearly the same"
    )
    choose: Literal["random", "different", "short", "long", "weight"] = Field(
        "random",
        description="which one stays of a path, and which of the paths where only some may: random, different (the "
        "largest sum of edit distances), the shortest, the longest, or that of the largest weight",
    )
    seed: int = Field(0, ge=0, description="another seed, another random choice; ties are broken by it, too")

    @field_validator("same", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false


class Candidate(NamedTuple):
    """What the choice needs of a record."""

    place: int  # its number in the file
    record: str
    fuzzy: bool  # compared by words, too
    words: np.ndarray  # digests of the trace's words; empty where nothing compares them
    path: int  # digest of what paths of the same question have in common
    weight: float
    length: int  # characters of the trace
    teacher: int


class Left(NamedTuple):
    """Why a record does not stay."""

    reason: str  # same_path or over_maximum
    other: int = -1  # the number of the one that has its path
    of_teacher: bool = False  # the maximum of its teacher, not of its question


def path_of(trace: str, found: Sequence[Equation], plain: str, config: PathsConfig) -> str:
    """What two traces that reason alike have in common: their equations in order, or the text if they have none.
    ``plain``: the trace as normalised text."""
    if not found or config.same == "text":
        return plain
    change: Callable[[str], str] = commuted if config.same == "commuted" else str
    return "\n".join(change(equation.path) for equation in found)


def chosen(
    candidates: Sequence[Candidate], config: PathsConfig, per_question: int | None, per_teacher: int | None
) -> Iterator[tuple[int, Left]]:
    """Of the candidates of one question those that do not stay, by number.

    Those that weigh nothing come last; then the order is that of ``config.choose``.
    """
    if len(candidates) == 1:
        return
    ids = [shuffled(each.record, config.seed) for each in candidates]
    apart = distances(candidates) if config.choose == "different" else None
    keys = [
        (each.weight == 0, first(each, config.choose) if apart is None else -int(apart[at].sum()), ids[at])
        for at, each in enumerate(candidates)
    ]
    order = sorted(range(len(candidates)), key=keys.__getitem__)
    if config.same != "off":
        kept: list[int] = []
        like = Alike(candidates, config.similarity)
        for at in order:
            if (other := like.seen(at)) is not None:
                yield candidates[at].place, Left("same_path", candidates[other].place)
            else:
                kept.append(at)
        order = kept
    taken: Counter[int] = Counter()
    if apart is not None and (per_question or per_teacher):
        order = spread(order, apart, [each.weight == 0 for each in candidates])
    for at in order:
        each = candidates[at]
        if per_question is not None and taken.total() == per_question:
            yield each.place, Left("over_maximum")
        elif per_teacher is not None and taken[each.teacher] == per_teacher:
            yield each.place, Left("over_maximum", of_teacher=True)
        else:
            taken[each.teacher] += 1


class Alike:
    """The paths of a question that were seen, to tell which is one of them."""

    def __init__(self, candidates: Sequence[Candidate], similarity: float) -> None:
        self.candidates, self.similarity = candidates, similarity
        self.by_path: dict[int, int] = {}
        fuzzy = [at for at, each in enumerate(candidates) if each.fuzzy]
        self.texts = dict(zip(fuzzy, as_text([candidates[at].words for at in fuzzy]), strict=True))
        self.unlike: list[int] = []  # those compared by words, each unlike the others

    def seen(self, at: int) -> int | None:
        """The candidate seen before that has the path of this one; None if there is none, and this one is now seen."""
        path = self.candidates[at].path
        if path in self.by_path:
            return self.by_path[path]
        if at in self.texts:
            for other in self.unlike:
                if Indel.normalized_similarity(self.texts[at], self.texts[other]) >= self.similarity:
                    return other
            self.unlike.append(at)
        self.by_path[path] = at
        return None


def first(each: Candidate, choose: str) -> float:
    return {"short": each.length, "long": -each.length, "weight": -each.weight}.get(choose, 0)


def shuffled(record: str, seed: int) -> str:
    """What orders records at random: of seed 0 their ids, which are hashes."""
    return record if seed == 0 else hashlib.blake2b(f"{seed} {record}".encode(), digest_size=8).hexdigest()


def distances(candidates: Sequence[Candidate]) -> np.ndarray:
    """(n, n) int32: words to insert, delete or replace to make one trace the other."""
    texts = as_text([each.words for each in candidates])
    threads = cores() if sum(map(len, texts)) > MANY else 1
    found: np.ndarray = cdist(texts, texts, scorer=Levenshtein.distance, dtype=np.int32, workers=threads)
    return found


def spread(order: list[int], apart: np.ndarray, weightless: Sequence[bool]) -> list[int]:
    """The order in which each is, of those left, the farthest from those before it, by the sum of distances; those
    that weigh nothing come last."""
    found: list[int] = []
    total = np.zeros(len(apart), np.int64)  # of each, to those found
    for last in (False, True):
        left = [at for at in order if weightless[at] == last]
        while left:
            best = max(left, key=total.__getitem__)  # the first of equals
            found.append(best)
            left.remove(best)
            total += apart[best]
    return found


def as_text(words: Sequence[np.ndarray]) -> list[str]:
    """Texts that have one character for each word, the same for the same one."""
    if not words:
        return []
    _, numbers = np.unique(np.concatenate(words), return_inverse=True)
    text = (numbers.astype("<u4") + FIRST_SIGN).tobytes()
    ends = 4 * np.cumsum([0, *(len(each) for each in words)])
    return [text[a:b].decode("utf-32-le") for a, b in pairwise(ends)]
