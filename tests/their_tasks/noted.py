"""A task for tests: its teacher is slow, notes every call in a file, and fails or errs where it is told to."""

from __future__ import annotations

import time
from pathlib import Path

from pydantic import BaseModel

from tracestill.data_pipeline.base.schema import Question, Span, content_id
from tracestill.data_pipeline.sampling.teachers import Solution


class Options(BaseModel):
    pass


class TeacherOptions(BaseModel):
    calls: str = ""  # file that gets a line for each call
    seconds: float = 0.0  # a call takes
    failures: int = 0  # calls that fail, from the first on
    spans: str = ""  # kind of one span over the whole trace, too short by one character if it is "short"


def questions(split_counts, options, seed):
    texts = [(f"How much is {n} and {n}?", str(2 * n)) for n in range(sum(split_counts.values()))]
    splits = [split for split, count in split_counts.items() for _ in range(count)]
    return [Question(content_id(t), t, gold, split) for (t, gold), split in zip(texts, splits, strict=True)]


class Teacher:
    def __init__(self, options: TeacherOptions) -> None:
        self.options = options
        self.failures = options.failures

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Solution:
        if self.options.calls:
            with Path(self.options.calls).open("a") as calls:
                calls.write(f"{question.question}|{style}|{temperature}\n")
        time.sleep(self.options.seconds)
        if self.failures:
            self.failures -= 1
            raise ConnectionError("gone")
        trace = f"First think. {int(question.gold) // 2} + {int(question.gold) // 2} = {question.gold} {style}{seed}"
        if not self.options.spans:
            return Solution(trace, question.gold)
        short = self.options.spans == "short"
        return Solution(trace, question.gold, (Span(0, len(trace) - short, "plan" if short else self.options.spans),))
