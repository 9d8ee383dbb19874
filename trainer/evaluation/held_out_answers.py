"""Accuracy on held-out questions while training goes on: the student answers them by itself, as in evaluation.

It is exported into a folder of its own, from which every rank loads plain transformers' model to answer its share of
the questions. So DeepSpeed's engine has no part in it (under ZeRO-3 each token would gather all parameters anew), and
what export and evaluation do with prompts, adapters and encoders holds here as well. Training's random numbers stay
as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.evaluation.evaluate import MOST_LONG, held_out, predict
from tracestill.trainer.measures.unasked import OVERLONG, was_asked
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.recipe.recipe import Recipe


class HeldOutAnswers:
    """The questions, and what came of asking them."""

    def __init__(self, recipe: Recipe, questions: Path, folder: Path, readers: Sequence[int] | None = None) -> None:
        """``questions`` is the file of the sample stage: its validation questions are asked, or if there are none, test
        ones. ``folder`` is for the export meanwhile, on a disk that the ranks ``readers`` see (None: all ranks): these
        answer. Raises InputError without any."""
        self.recipe, self.folder, self.readers = recipe, folder, readers
        self.split = "validation" if recipe.questions.validation else "test"
        self.questions = held_out(questions, recipe.train.held_out_questions, self.split)

    def measure(self, engine: Engine, export: Callable[[Path], None]) -> dict[str, Any]:
        """``accuracy``, ``count`` of questions, how many answers were ``truncated``, how many questions were
        ``not_asked`` (see ``evaluate.answer``), and ``trace_tokens_mean`` of the others.

        Called on every rank, as is ``export``, which writes the student. Raises InputError on all ranks if one fails,
        or most questions are too long to be asked.
        """
        export(self.folder)
        parts = together(lambda: self.answer(engine), f"{self.folder}: cannot answer train.held_out_questions")
        if engine.rank == 0:
            shutil.rmtree(self.folder, ignore_errors=True)
        correct, truncated, left, long, trace_tokens = (sum(numbers) for numbers in zip(*parts, strict=True))
        count = len(self.questions)
        if long > MOST_LONG * count:  # of all, not of a rank's own: how many ranks there are decides nothing
            raise InputError(
                f"evaluate.max_new_tokens: {self.recipe.evaluate.max_new_tokens} after a question exceed the student's "
                f"positions with {long} of {count} train.held_out_questions; lower it or raise max_position_embeddings"
            )
        return {
            "accuracy": correct / count,
            "count": count,
            "truncated": truncated,
            "not_asked": left,
            "trace_tokens_mean": trace_tokens / max(count - left, 1),
        }

    def answer(self, engine: Engine) -> tuple[int, int, int, int, int]:
        """Of this rank's questions: right answers, answers cut off, questions not asked, those of them that were too
        long, and tokens of traces."""
        readers = range(engine.ranks) if self.readers is None else self.readers
        mine = self.questions[readers.index(engine.rank) :: len(readers)] if engine.rank in readers else []
        if not mine:
            return 0, 0, 0, 0, 0
        with torch.random.fork_rng(devices=[engine.device] if engine.device.type == "cuda" else []):
            rows = predict(self.recipe, mine, self.folder, engine.device, lambda done, total: None)
        cut, left = sum(not row["finished"] for row in rows), sum(not was_asked(row) for row in rows)
        long = sum(row["read_by"] == OVERLONG for row in rows)
        return sum(row["correct"] for row in rows), cut, left, long, sum(row["trace_tokens"] for row in rows)
