"""Which documents a plan holds at all, by what a channel says: a band of difficulty, and the best of each question.

The token store stays as it is; what is left out is counted by reason, and another plan takes it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels.document_scores import DocumentScore
from tracestill.data_pipeline.plan.order import shuffled

QUESTION = "question_id"  # the column
OUTSIDE, BEYOND = "outside_band", "not_of_the_best"  # why a document is left out
DRAW = (1 << 64) - (1 << 16)  # in the place of an epoch: no epoch and no part of a mixture draws there


class KeepConfig(DocumentScore):
    """Which documents stay. One of which the channel knows nothing stays, and is counted."""

    between: tuple[float, float] | None = Field(
        None, description="quantiles in [0, 1], both included: what lies outside of them is left out"
    )
    each: Literal["document", "question"] = Field(
        "document", description="what lies in the band: a document's number, or the mean of its question's documents"
    )
    per_question: int | None = Field(None, ge=1, description="documents of each question that stay, the best ones")
    best: Literal["smallest", "largest"] = Field("smallest", description="which numbers are the best")
    control: Literal["off", "random"] = Field(
        "off", description="random: as many, drawn at random: the control that the choice has to beat"
    )

    @model_validator(mode="after")
    def _something(self) -> KeepConfig:
        if self.between is None and self.per_question is None:
            raise ValueError("give between, per_question or both")
        if self.between is not None and not 0 <= self.between[0] < self.between[1] <= 1:
            raise ValueError(f"between: expected two quantiles, 0 <= low < high <= 1, got {list(self.between)}")
        return self


def choose(
    config: KeepConfig,
    numbers: np.ndarray,  # (N,) float64: see ``channels.document_scores``
    questions: np.ndarray,  # (N,) int64: which question each document is of, from 0
    seed: int,
) -> tuple[np.ndarray, dict[str, Any]]:
    """((N,) bool: what stays; what to tell of it). Equal numbers are told apart at random, by the seed.

    Raises InputError if nothing stays.
    """
    n, drawn = len(numbers), np.zeros(len(numbers), np.int64)
    drawn[shuffled(np.random.Philox(key=np.array([seed, DRAW], np.uint64)), n).view(np.int64)] = np.arange(n)
    known, kept = ~np.isnan(numbers), np.ones(n, bool)
    told: dict[str, Any] = {}
    random = config.control == "random"
    if not known.any():
        raise InputError(f"plan.keep: nothing is known of any document by {config}; change channel or of")
    if config.between is not None:
        inside, edges = in_band(config, numbers, questions, drawn, random=random)
        told[OUTSIDE] = int((~inside).sum())
        told["edges"] = edges
        kept &= inside
    if config.per_question is not None:
        key = drawn.astype(np.float64) if random else numbers if config.best == "smallest" else -numbers
        best = first_of_each(np.where(known & kept, key, np.inf), questions, drawn, config.per_question)
        told[BEYOND] = int((kept & known & ~best).sum())
        kept &= best | ~known
    if not kept.any():
        raise InputError(f"plan.keep: none of {n:,} documents stays; widen between")
    mean = {when: float(numbers[mask & known].mean()) if (mask & known).any() else None
            for when, mask in (("all", np.ones(n, bool)), ("kept", kept))}  # fmt: skip
    return kept, {
        "by": str(config),
        "control": config.control,
        "documents": n,
        "kept": int(kept.sum()),
        "questions": len(np.unique(questions)),
        "questions_kept": len(np.unique(questions[kept])),
        "unknown": int((~known).sum()),
        "mean": mean,
        **told,
    }


def words(told: Mapping[str, Any]) -> str:
    """What ``choose`` tells, in one line."""
    reasons = {OUTSIDE: "outside of the band", BEYOND: "not of the best of their questions"}
    left = [f"{told[name]:,} {why}" for name, why in reasons.items() if told.get(name)]
    mean = [f"mean {told['mean']['all']:.4g}, {told['mean']['kept']:.4g} of what stays"] if told["mean"]["kept"] else []
    unknown = [f"{told['unknown']:,} of which nothing is known stay"] if told["unknown"] else []
    random = [", as many at random"] if told["control"] == "random" else []
    return (
        f"by {told['by']}{''.join(random)}: {told['kept']:,} of {told['documents']:,} documents stay, of "
        f"{told['questions_kept']:,} of {told['questions']:,} questions ({'; '.join([*left, *unknown, *mean])})"
    )


def in_band(
    config: KeepConfig, numbers: np.ndarray, questions: np.ndarray, drawn: np.ndarray, *, random: bool
) -> tuple[np.ndarray, list[float]]:
    """((N,) bool: documents in the band, or as many at random; its edges). What is unknown is inside."""
    assert config.between is not None
    known = ~np.isnan(numbers)
    units = questions if config.each == "question" else np.arange(len(numbers))
    sums, counts = (
        np.bincount(units[known], values, int(units.max(initial=0)) + 1) for values in (numbers[known], None)
    )
    there = np.flatnonzero(counts)
    means = sums[there] / counts[there]
    low, high = np.quantile(means, config.between, method="inverted_cdf")
    inside = (means >= low) & (means <= high)
    if random:
        first = np.full(len(counts), len(numbers))
        np.minimum.at(first, units, drawn)
        inside = np.argsort(np.argsort(first[there])) < inside.sum()
    of_unit = np.ones(len(counts), bool)
    of_unit[there] = inside
    return of_unit[units] | ~known, [float(low), float(high)]


def first_of_each(keys: np.ndarray, questions: np.ndarray, drawn: np.ndarray, count: int) -> np.ndarray:
    """(N,) bool: the ``count`` documents of each question with the smallest finite keys."""
    order = np.lexsort((drawn, keys, questions))
    begins = np.flatnonzero(np.diff(questions[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(begins, np.diff(begins, append=len(order)))
    found = np.zeros(len(keys), bool)
    found[order] = (place < count) & np.isfinite(keys[order])
    return found
