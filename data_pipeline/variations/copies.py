"""Held-out questions that stand among the training questions, or nearly so: found by content, and named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.splits.near import MISSING, NearConfig, Pair, near_pairs, shingles_of

COPIES_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("task", "question_id", "question", "training_id", "training_question")),
        ("similarity", pa.float32()),
    ]
)


@dataclass
class Copies:
    """What was found of one task."""

    exact: dict[str, Question] = field(default_factory=dict)  # id of a held-out question -> the training one
    near: list[Pair] = field(default_factory=list)  # a held-out question with the training one most like it
    note: str = ""  # why nearly equal ones were not looked for

    def rows(self, task: str, held_out: Sequence[Question]) -> list[dict[str, object]]:
        """Rows of COPIES_SCHEMA."""
        pairs = [Pair(each, self.exact[each.question_id], 1.0) for each in held_out if each.question_id in self.exact]
        return [
            {
                "task": task,
                **{"question_id": pair.question.question_id, "question": pair.question.question},
                **{"training_id": pair.other.question_id, "training_question": pair.other.question},
                "similarity": pair.similarity,
            }
            for pair in [*pairs, *self.near]
        ]


def copies(held_out: Sequence[Question], training: Sequence[Question], config: NearConfig = NearConfig()) -> Copies:
    """Held-out questions that are training questions, word for word or with ``config.similarity``."""
    by_id = {each.question_id: each for each in training}
    found = Copies({each.question_id: by_id[each.question_id] for each in held_out if each.question_id in by_id})
    others = [each for each in held_out if each.question_id not in found.exact]
    common = {shingle for each in others for shingle in shingles_of(each.question)}
    like = [each for each in training if is_like(shingles_of(each.question), common, config.similarity)]
    pairs = near_pairs(others, like, config)  # the others cannot be: MinHash is asked of few
    found.near, found.note = pairs or [], MISSING if pairs is None else ""
    return found


def is_like(shingles: set[str], common: set[str], similarity: float) -> bool:
    return len(shingles & common) >= similarity * len(shingles)
