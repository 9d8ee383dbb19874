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
from typing import Literal, NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.selection.commuted import commuted
from tracestill.data_pipeline.selection.distances import Distances, Nearly, as_text
from tracestill.data_pipeline.soundness import Equation

LONGEST = 4096  # words of a trace that are compared


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
    texts = as_text([each.words for each in candidates])
    apart = sums = None
    if config.choose == "different":
        apart = Distances(texts, sorted(range(len(ids)), key=ids.__getitem__))
        sums = apart.sums()
    keys = [
        (each.weight == 0, first(each, config.choose) if sums is None else -int(sums[at]), ids[at])
        for at, each in enumerate(candidates)
    ]
    order = sorted(range(len(candidates)), key=keys.__getitem__)
    if config.same != "off":
        kept: list[int] = []
        like = Alike(candidates, texts, config.similarity)
        for at in order:
            if (other := like.seen(at)) is not None:
                yield candidates[at].place, Left("same_path", candidates[other].place)
            else:
                kept.append(at)
        order = kept
    if per_question is None and per_teacher is None:
        return
    taken: Counter[int] = Counter()  # by teacher
    there = Counter(candidates[at].teacher for at in order)
    most = sum(min(count, per_teacher or count) for count in there.values())
    most = most if per_question is None else min(most, per_question)
    queue = iter(order) if apart is None else apart.spread(order, [each.weight == 0 for each in candidates])
    left = dict.fromkeys(order)
    while left and taken.total() < most:
        at = next(queue)
        del left[at]
        if per_teacher is not None and taken[candidates[at].teacher] == per_teacher:
            yield candidates[at].place, Left("over_maximum", of_teacher=True)
        else:
            taken[candidates[at].teacher] += 1
    for at in left:
        yield candidates[at].place, Left("over_maximum", of_teacher=taken.total() != per_question)


class Alike:
    """The paths of a question that were seen, to tell which is one of them."""

    def __init__(self, candidates: Sequence[Candidate], texts: Sequence[str], similarity: float) -> None:
        self.candidates = candidates
        self.by_path: dict[int, int] = {}
        self.fuzzy = [at for at, each in enumerate(candidates) if each.fuzzy]
        self.number = {at: number for number, at in enumerate(self.fuzzy)}
        words = [candidates[at].words for at in self.fuzzy]
        self.nearly = Nearly([texts[at] for at in self.fuzzy], words, similarity)

    def seen(self, at: int) -> int | None:
        """The candidate seen before that has the path of this one; None if there is none, and this one is now seen."""
        path = self.candidates[at].path
        if path in self.by_path:
            return self.by_path[path]
        if at in self.number and (other := self.nearly.first(self.number[at])) is not None:
            return self.fuzzy[other]
        self.by_path[path] = at
        return None


def first(each: Candidate, choose: str) -> float:
    return {"short": each.length, "long": -each.length, "weight": -each.weight}.get(choose, 0)


def shuffled(record: str, seed: int) -> str:
    """What orders records at random: of seed 0 their ids, which are hashes."""
    return record if seed == 0 else hashlib.blake2b(f"{seed} {record}".encode(), digest_size=8).hexdigest()
