"""What ``evaluate.general`` measures: what a student that became a specialist lost elsewhere (arXiv 2301.12726).

Teacher-forced loss on general text, of the student before its first step and after the last one, on the same tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import GENERAL, Question, Record
from tracestill.data_pipeline.sampling.files.gather import FileConfig, gather
from tracestill.data_pipeline.tokens.layout import Layout
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.losses.losses import teacher_forced
from tracestill.trainer.measures.settings import GeneralConfig
from tracestill.trainer.ranks.threads import ThreadChoice
from tracestill.trainer.recipe.positions import positions_of
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.student.student import Student

Progress = Callable[[int, int], None]
NAME = "general"
FIELD = "evaluate.general"
TEXT = "answer"  # the kind of what a document of general text predicts


class Students(NamedTuple):
    """The student of an arm after its training, and before."""

    layout: Layout
    device: torch.device
    threads: ThreadChoice | None
    before: Callable[[], Student] | None  # makes it when it is needed; None: it is not trained
    after: Student


def general(recipe: Recipe, students: Students, folder: Path, progress: Progress) -> dict[str, Any]:
    """``texts`` and ``tokens`` read; texts that were ``cut``, and ``left_out`` by reason; by ``before`` and ``after``
    the ``loss`` in nats a token with its interval by text, the share predicted right (``accuracy``), and
    ``bits_per_byte``, which compares between tokenizers. ``before`` is None of a student that is not trained.

    Leaves the documents in ``folder`` as general.arrow. Raises InputError if no text can be used.
    """
    config = recipe.evaluate.general
    assert config is not None
    texts, counts = texts_of(config)
    path = folder / f"{NAME}.arrow"
    size = store_texts(path, texts, students.layout, recipe, counts)
    store = TokenStore(path, recipe.span_kinds())
    found: dict[str, Any] = {"texts": len(store), "tokens": int(store.lengths.sum()), "cut": counts.pop("cut", 0)}
    found["left_out"] = dict(counts)

    def measure(student: Student) -> dict[str, Any]:
        row = teacher_forced(student, store, students.device, students.threads, progress)[TEXT]
        return {**row, "bits_per_byte": row["loss"] * row["count"] / math.log(2) / size}

    found["after"] = measure(students.after)
    found["before"] = None if students.before is None else measure(students.before())
    return found


def texts_of(config: GeneralConfig) -> tuple[list[Question], Counter[str]]:
    """The texts of a source, each no longer than it may be; and how many are ``cut``, or left out, by reason."""
    file = FileConfig(path=config.source, fields=config.fields, general=True)
    read = gather([file], lambda said: None, with_traces=False)
    counts = Counter(each.reason for each in read.rejected)
    texts = read.questions[: config.texts]
    if not texts:
        raise InputError(f"{FIELD}: {config.source} holds no text that can be used ({dict(counts)})")
    counts["cut"] = sum(len(text.gold) > config.characters for text in texts)
    return [text if len(text.gold) <= config.characters else cut(text, config.characters) for text in texts], counts


def cut(text: Question, characters: int) -> Question:
    """Its first words, in no more characters; of a single longer word, its beginning."""
    head = text.gold[:characters]
    return Question(text.question_id, text.question, head.rpartition(" ")[0] or head, "train", is_general=True)


def store_texts(path: Path, texts: list[Question], layout: Layout, recipe: Recipe, counts: Counter[str]) -> int:
    """Write their documents as a token store; the bytes of the texts. Counts those that are left out: refused by the
    layout, or longer than the student's positions."""
    kinds, positions, size = recipe.span_kinds(), positions_of(recipe.student), 0
    records = [
        Record(
            text.question_id, text.question_id, text.question, "", "", text.gold, (), 1.0, "", "", 0.0, 0, "", GENERAL
        )
        for text in texts
    ]
    with TokenStoreWriter(path, kinds) as store:
        for record, encoded in zip(records, layout.encode(records, kinds), strict=True):
            if encoded.refused is not None:
                counts[encoded.refused[0]] += 1
                continue
            for document in encoded.documents.values():
                if positions is not None and len(document.tokens) > positions:
                    counts["overlong"] += 1
                    break
                store.add(record.record_id, record.question_id, *document)
                size += len(record.answer.encode())
    if not size:
        raise InputError(f"{FIELD}: no text of it can be laid out ({dict(counts)})")
    return size
