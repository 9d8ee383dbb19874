"""Replays the traces that stand in the files of the questions: every one of them, those of a question by number.

The sampler takes them from the source itself (``files.trace_store``), and asks this teacher nothing.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.teachers.protocol import Solution


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    teacher: str | None = Field(None, description="only the traces that files say this teacher wrote; null: all")


class Teacher:
    """``options.teacher`` chooses among the traces; a record bears the name that its file gives, or the recipe's."""

    def __init__(self, options: TeacherOptions) -> None:
        self.options = options

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution:
        """Raises InputError: there is nothing to replay but what a file holds."""
        del style, temperature, seed
        raise InputError(f"question {question.question_id}: the teacher recorded replays traces in files only")
