"""What evaluation measures beside accuracy: parts, each switched on by its block of ``evaluate``.

A part is a function of a ``Context``. It asks through it, writes its rows as Parquet in the stage's directory, and
returns the numbers that stand under its name in result.json. Parts run in the order of ``PARTS``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracestill.data_pipeline.answers.verifier import Case, Verifier, how_of
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows, write_rows
from tracestill.trainer.evaluation.asking import Asker, Begun, Progress, Query, is_numeric, key_of, row_of
from tracestill.trainer.evaluation.predictions import verified
from tracestill.trainer.evaluation.transfer import transfer
from tracestill.trainer.measures.budgets import budgets
from tracestill.trainer.measures.cause import cause
from tracestill.trainer.measures.quality import quality
from tracestill.trainer.measures.samples import samples
from tracestill.trainer.measures.unasked import Unasked
from tracestill.trainer.recipe.recipe import Recipe

Row = dict[str, Any]
Part = Callable[["Context"], dict[str, Any]]
PARTS: dict[str, Part] = {  # of EvaluateConfig -> what does it
    "samples": samples,
    "budgets": budgets,
    "cause": cause,
    "quality": quality,
    "transfer": transfer,
}
RECORDS = ("question_id", "question", "gold", "trace", "answer")  # what is read of a teacher's record


@dataclass
class Context:
    """One student that is evaluated, and what is known of it so far."""

    recipe: Recipe  # of its arm
    questions: Sequence[Mapping[str, Any]]  # held-out ones, rows of QUESTION_SCHEMA
    predictions: Sequence[Row]  # the answer to each, as PREDICTION_SCHEMA
    asker: Asker
    verifier: Verifier
    path: Path  # of the stage that is being written
    sample: Path  # of the finished sample stage
    progress: Progress = lambda done, total: None

    @property
    def takes_traces(self) -> bool:
        """Whether the student can be made to have begun a trace: a layout without traces has no place for one, whatever
        its student writes."""
        encode = self.recipe.encode
        return encode.trace == "keep" and encode.two_task is None

    def query(
        self,
        question: Mapping[str, Any],
        *names: str,
        samples: int = 1,
        temperature: float = 0.0,
        trace: str = "",
        closed: bool = False,
    ) -> Query:
        """A question that the student is to answer, perhaps with a ``trace`` begun, and ``closed``. ``names``, of the
        part and what it does, and the question's id decide the draws."""
        return Query(
            question["question"],
            key_of(*names, question["question_id"]),
            self.recipe.evaluate.max_new_tokens,
            samples,
            temperature,
            begun=Begun(trace, closed),
            numeric=is_numeric(question["gold"]),
        )

    def ask(self, questions: Sequence[Mapping[str, Any]], queries: Sequence[Query]) -> list[list[Row] | Unasked]:
        """The replies to each query about the question at its place, verified: rows of PREDICTION_SCHEMA, and
        ``logprob``; or why it was not asked."""
        replies = self.asker.ask(queries, self.progress)
        rows = [
            {**row_of(questions[at], reply), "logprob": reply.logprob}
            for at, each in enumerate(replies)
            if not isinstance(each, Unasked)
            for reply in each
        ]
        of_row = [questions[at] for at, each in enumerate(replies) if not isinstance(each, Unasked) for _ in each]
        told = iter(verified(rows, of_row, self.verifier))
        return [each if isinstance(each, Unasked) else [next(told) for _ in each] for each in replies]

    def same(self, pairs: Sequence[tuple[str, str, Mapping[str, Any]]]) -> list[bool]:
        """Whether two answers to a question say the same: by its verifier, as if one of them were the gold answer.
        Programs and judges are not asked: they say whether an answer is right, not what it says."""
        cases = []
        for one, other, question in pairs:
            how = how_of(question.get("metadata") or "", self.verifier.config.use)
            cases.append(Case(one, other, question["question"], "text" if how in ("code", "judge") else how))
        return [verdict.right for verdict in self.verifier.verdicts(cases)]

    @cached_property
    def records(self) -> dict[str, list[Row]]:
        """Question id -> what teachers wrote on it; empty without ``sample.test_samples``."""
        found: dict[str, list[Row]] = {question["question_id"]: [] for question in self.questions}
        wanted = [("question_id", "in", list(found))]
        for row in read_rows(self.sample / "records.parquet", RECORD_SCHEMA, filters=wanted):
            found[row["question_id"]].append({key: row[key] for key in RECORDS})
        return {question: rows for question, rows in found.items() if rows}

    def write(self, name: str, rows: Sequence[Row], schema: pa.Schema) -> None:
        """Keep the rows of a part beside the predictions, as ``name``.parquet."""
        write_rows(self.path / f"{name}.parquet", rows, schema)


def measured(context: Context) -> dict[str, Any]:
    """Part -> its numbers, of those that the recipe switches on."""
    chosen = context.recipe.evaluate
    return {name: part(context) for name, part in PARTS.items() if getattr(chosen, name)}
