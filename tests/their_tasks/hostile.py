"""A task for tests: some of its questions and some of what its teacher says can be kept by nobody."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel

from tracestill.data_pipeline.base.schema import Question, Span, content_id
from tracestill.data_pipeline.sampling.teachers import Solution

SAID: dict[str, Any] = {
    "none": None,
    "dict": {"trace": "1", "answer": "2"},
    "half an emoji": Solution("I smile \ud83d", "1"),
    "half an answer": Solution("I think", "\udc00"),
    "number": Solution("I think", 7),  # type: ignore[arg-type]
    "short spans": Solution("I think", "7", (Span(0, 3, "plan"),)),
    "spans of a list": Solution("I think", "7", [[0, 7, "plan"]]),  # type: ignore[arg-type]
    "spans of text": Solution("I think", "7", (Span("0", 7, "plan"),)),  # type: ignore[arg-type]
}


class Options(BaseModel):
    bad: bool = False


class TeacherOptions(BaseModel):
    calls: str = ""
    says: tuple[str, ...] = ()  # keys of SAID, in the order of the questions; then plain solutions


def deep(levels: int) -> Any:
    return [deep(levels - 1)] if levels else 1


def bad_questions(split: str) -> list[Any]:
    good = Question("", "Why?", "1", split)
    texts = [("Half \ud83d?", "1", "g", {}), ("Gold?", "\udfff", "g", {}), ("Group?", "1", "\ud800", {})]
    texts += [("Deep?", "1", "g", {"x": deep(900)}), ("Set?", "1", "g", {"x": {1, 2}}), ("Key?", "1", "g", {1: 2})]
    texts += [("Gold of a number?", 3, "g", {}), ("No metadata?", "1", "g", None)]
    return [Question("", text, gold, split, group, held) for text, gold, group, held in texts] + [(good, split)]


def questions(split_counts: Any, options: Options, seed: int) -> list[Any]:
    found: list[Any] = []
    for split, count in split_counts.items():
        bad = bad_questions(split)[:8] if options.bad and split == "train" else []
        texts = [f"{split} {n}?" for n in range(count - len(bad))]
        found += bad + [Question(content_id(text), text, "7", split) for text in texts]
    return found


class Teacher:
    def __init__(self, options: TeacherOptions) -> None:
        self.options = options

    def solve(self, question: Question, *, style: str, temperature: float, seed: int) -> Any:
        with Path(self.options.calls).open("a") as calls:
            calls.write("asked\n")
        number = int(question.question.split()[1].rstrip("?"))
        if number < len(self.options.says):
            return SAID[self.options.says[number]]
        return Solution(f"I think {number}", "7")
