"""The questions that a student writes texts to: those that teachers are asked for training, as the student reads them,
and which of them come when."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, content_id, read_rows
from tracestill.data_pipeline.sampling.asking.styles import tagged
from tracestill.data_pipeline.sampling.sample_config import SampleConfig

One = TypeVar("One")


def training_questions(sample: Path, config: SampleConfig) -> list[dict[str, Any]]:
    """Those that teachers are asked, with ``posed``: as the student reads them. General texts pose none."""
    tag = config.tags.get(config.prompts[0], "")
    rows = read_rows(sample / "questions.parquet", QUESTION_SCHEMA)
    asked = [row for row in rows if row["split"] == "train" and content_id(row["question"]) == row["question_id"]]
    return [{**row, "posed": tagged(row["question"], tag)} for row in asked]


def drawn(of: Sequence[One], first: int, count: int, seed: int) -> list[One]:
    """Places ``first`` to ``first + count - 1`` of an endless row in which all come, in an order of their own, before
    one comes again: by a hash of (seed, pass, place), the same wherever it is asked."""
    found: list[One] = []
    while len(found) < count:
        at, behind = divmod(first + len(found), len(of))
        found += order_of(of, at, seed)[behind : behind + count - len(found)]
    return found


def order_of(of: Sequence[One], pass_: int, seed: int) -> list[One]:
    def key(place: int) -> bytes:
        return hashlib.sha256(f"{seed} {pass_} {place}".encode()).digest()

    return [of[place] for place in sorted(range(len(of)), key=key)]
