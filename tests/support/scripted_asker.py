"""A student by a function of the question and of what has begun: what parts of an evaluation ask, without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fake_run import mini_recipe

from tracestill.data_pipeline.answers import Verifier
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, write_rows
from tracestill.trainer.evaluation.asking import Query, Reply, row_of
from tracestill.trainer.evaluation.parts import Context
from tracestill.trainer.evaluation.predictions import verified
from tracestill.trainer.measures.unasked import REFUSED, Unasked

Writes = Callable[[Query, int], tuple[str, str | None]]  # of a query and a sample: the whole trace, and the answer


class Scripted:
    takes_system = True

    def __init__(
        self, writes: Writes, logprob: Callable[[Query, int], float | None] = lambda query, sample: None
    ) -> None:
        self.writes, self.logprob = writes, logprob
        self.queries: list[Query] = []

    def shown(self, question: str) -> str:
        return question

    def ask(self, queries: Sequence[Query], progress: Any = None) -> list[list[Reply] | Unasked]:
        self.queries += queries
        return [
            Unasked(REFUSED)
            if "\0" in query.question
            else [self.reply(query, sample) for sample in range(query.samples)]
            for query in queries
        ]

    def by_token(self, reply: Reply) -> dict[str, Any]:
        return {}

    def reply(self, query: Query, sample: int) -> Reply:
        trace, answer = self.writes(query, sample)
        done, tokens = answer is not None, len(trace.split()) + 1
        read_by = "whole" if done else "cut_off"
        return Reply(
            f"{trace} {answer}", trace, answer, read_by, done, done, tokens, tokens, self.logprob(query, sample)
        )


def question(number: int, text: str, gold: str, metadata: str = "{}") -> dict[str, Any]:
    more = {"split": "test", "group": "", "metadata": metadata, "source": ""}
    return {"question_id": f"{number:016x}", "question": text, "gold": gold, **more}


def record(asked: dict[str, Any], trace: str, answer: str) -> dict[str, Any]:
    about = {key: asked[key] for key in ("question_id", "question", "gold")}
    how = {"weight": 1.0, "teacher": "t", "style": "", "temperature": 1.0, "index": 0, "raw": "", "reader": ""}
    return {**about, "record_id": f"r{asked['question_id']}", "trace": trace, "answer": answer, "spans": [], **how}


def context_of(
    folder: Path,
    asker: Scripted,
    questions: list[dict[str, Any]],
    records: Sequence[dict[str, Any]] = (),
    **evaluate: Any,
) -> Context:
    """A context in which the student has answered the questions greedily."""
    recipe, verifier = mini_recipe(evaluate=evaluate), Verifier()
    write_rows(folder / "records.parquet", records, RECORD_SCHEMA)
    context = Context(recipe, questions, [], asker, verifier, folder, folder)
    replies = asker.ask([context.query(each) for each in questions])
    rows = [
        row_of(each, told if isinstance(told, Unasked) else told[0])
        for each, told in zip(questions, replies, strict=True)
    ]
    context.predictions = verified(rows, questions, verifier)
    asker.queries.clear()
    return context
