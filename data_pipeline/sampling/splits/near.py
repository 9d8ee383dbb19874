"""Near duplicates across splits: questions in which a few words differ, found by MinHash and then compared."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question

WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]+")
# each character of Chinese, Japanese and Thai, which put no spaces between words, is a word
WORDS = 3  # of a shingle
HASHES = 128
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("question_id", "question", "other_id", "other", "split")),
        ("similarity", pa.float32()),
    ]
)
MISSING = "near duplicates across splits were not looked for: pip install 'tracestill[traces]'"


class NearConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    policy: Literal["report", "drop", "ignore"] = Field(
        "report", description="what becomes of a training question that is nearly a held-out one; drop: it is left out"
    )
    similarity: float = Field(
        0.7, gt=0, le=1, description="share of the sequences of three words of both that they have in common (Jaccard)"
    )


class Pair(NamedTuple):
    """A training question and the held-out one most like it."""

    question: Question
    other: Question
    similarity: float

    def row(self) -> dict[str, Any]:
        return {
            "question_id": self.question.question_id,
            "question": self.question.question,
            "other_id": self.other.question_id,
            "other": self.other.question,
            "split": self.other.split,
            "similarity": self.similarity,
        }


def near_pairs(train: Sequence[Question], held_out: Sequence[Question], config: NearConfig) -> list[Pair] | None:
    """Each training question that is like a held-out one; None if the library is missing and only asked to report.

    Raises InputError if it is missing and needed.
    """
    if config.policy == "ignore" or not train or not held_out:
        return []
    try:
        from datasketch import MinHash, MinHashLSH
    except ImportError as error:
        if config.policy == "drop":
            raise InputError(f"questions.near_duplicates: {MISSING} ({error})") from error
        return None

    def hashed(shingles: set[str]) -> Any:
        made = MinHash(num_perm=HASHES, seed=1, hashfunc=crc)
        made.update_batch([shingle.encode() for shingle in shingles])
        return made

    held = {each.question_id: (each, shingles_of(each.question)) for each in held_out}
    index = MinHashLSH(threshold=max(0.1, config.similarity - 0.3), num_perm=HASHES)
    for key, (_, shingles) in held.items():
        index.insert(key, hashed(shingles))
    common = {shingle for _, shingles in held.values() for shingle in shingles}
    found = []
    for question in train:
        shingles = shingles_of(question.question)
        if len(shingles & common) < config.similarity * len(shingles):
            continue  # it cannot be: MinHash is asked of few
        keys = sorted(index.query(hashed(shingles)))
        likeness = [(len(shingles & held[key][1]) / len(shingles | held[key][1]), key) for key in keys]
        if likeness and (best := max(likeness))[0] >= config.similarity:
            found.append(Pair(question, held[best[1]][0], best[0]))
    return found


def crc(data: bytes) -> int:
    """32 bits of a shingle, equal on every machine."""
    return zlib.crc32(data)


def shingles_of(text: str) -> set[str]:
    words = WORD.findall(text.lower())
    if len(words) < WORDS:
        return {" ".join(words) or text}
    return {" ".join(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1)}
