"""Sums of digits by teachers of the benchmark's own: in a fixed order, or with slips that cancel. claims.py copies it
beside its recipe."""

from __future__ import annotations

import random
from dataclasses import replace

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.teachers.digit_sum import Teacher as Symbolic
from tracestill.data_pipeline.sampling.teachers.digit_sum import TeacherOptions as Errors
from tracestill.data_pipeline.sampling.teachers.protocol import Solution

FIRST, LAST = "from the first", "from the last"  # styles: which digit the sum begins with


class TeacherOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    cancels: float = Field(0.0, ge=0, le=1, description="probability that a sum is off by the modulus")
    error_rate: float = Field(0.0, ge=0, le=1, description="probability that any other step goes wrong")


class Teacher(Symbolic):
    """In the styles ``FIRST`` and ``LAST`` it adds in that order, in any other one as the demo's teacher does. It errs
    as that one does, with probability ``error_rate``, and besides by the modulus alone, so that what follows, and the
    answer, does not show it."""

    def __init__(self, options: TeacherOptions) -> None:
        super().__init__(Errors(error_rate=options.error_rate))
        self.cancels = options.cancels

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution:
        if style not in (FIRST, LAST):
            return super().solve(question, style=style, temperature=temperature, seed=seed)
        digits = list(question.metadata["digits"])[:: 1 if style == FIRST else -1]
        turned = replace(question, metadata={**question.metadata, "digits": digits})
        return super().solve(turned, style=style, temperature=0, seed=seed)

    def err(self, rng: random.Random, digit: int, total: int, modulus: int) -> tuple[int, int]:
        if rng.random() >= self.cancels:
            return super().err(rng, digit, total, modulus)
        return digit, -modulus if total >= modulus else modulus
