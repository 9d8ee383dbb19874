"""What a checker gets, a trace, and what it gives: findings on stretches of its text."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

from tracestill.data_pipeline.segmentation.lexer import Lexed, lex
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.soundness.equations import Equation, equations

Outcome = Literal["holds", "false", "cannot_tell"]
OUTCOMES = ("holds", "false", "cannot_tell")


class Finding(NamedTuple):
    """What a checker says of characters [start, end) of a trace. ``checker`` and ``step`` are filled in by the chain:
    a checker of yours gives the first three or four."""

    start: int
    end: int
    outcome: Outcome
    detail: str = ""  # one line, for whoever reads why a record was rejected
    checker: str = ""
    step: int = -1  # the step that holds ``start``, counted from 0


@dataclass(frozen=True)
class Trace:
    """A trace to be checked. What is read of it once serves all checkers."""

    text: str
    question: str = ""
    answer: str = ""
    gold: str = ""
    given_ends: Sequence[int] | None = None  # where its steps end, if they are known; else sentences and lines

    @cached_property
    def ends(self) -> Sequence[int]:
        """Where each step ends: increasing offsets, the last is ``len(text)``."""
        return step_ends(self.text) if self.given_ends is None else self.given_ends

    @cached_property
    def starts(self) -> list[int]:
        """Where each step begins."""
        return [0, *self.ends[:-1]] if self.ends else []

    @cached_property
    def steps(self) -> list[str]:
        return [self.text[start:end] for start, end in zip(self.starts, self.ends, strict=True)]

    @cached_property
    def equations(self) -> list[Equation]:
        return equations(self.text)

    @cached_property
    def lexed(self) -> Lexed:
        return lex(self.text)

    def step_at(self, character: int) -> int:
        """The index of the step that holds a character."""
        return min(bisect_right(self.ends, character), max(len(self.ends) - 1, 0))


Check = Callable[[Trace], Iterable[Finding]]
