"""Whether the answers of records are right, some records at a time: by the recipe's verifier, or a question's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq

from tracestill.data_pipeline.answers.verdict import REASONS, Verdict
from tracestill.data_pipeline.answers.verifier import COLUMN, Case, Verifier, how_of
from tracestill.data_pipeline.base.schema import GENERAL

JOINT = {"wrong": "is not", "cannot_tell": "may or may not be", "timeout": "was compared too long with"}

Fault = tuple[str, str]  # reason, detail


def wrong_answers(
    rows: Sequence[Mapping[str, Any]], verifier: Verifier, named: Mapping[str, str]
) -> list[Fault | None]:
    """Of each record what is wrong with its answer; None: nothing, or there is none, or it is general text, which
    nobody judges. ``named``: the verifiers of questions by id."""
    said = [at for at, row in enumerate(rows) if row["answer"].strip() and row["reader"] != GENERAL]
    cases = [case_of(rows[at], named.get(rows[at]["question_id"], verifier.config.use)) for at in said]
    found: list[Fault | None] = [None] * len(rows)
    for at, verdict in zip(said, verifier.verdicts(cases), strict=True):
        if not verdict.right:
            found[at] = REASONS[verdict.outcome], told(rows[at], verdict)
    return found


def case_of(row: Mapping[str, Any], how: str) -> Case:
    return Case(row["answer"], row["gold"], row["question"], how)


def told(row: Mapping[str, Any], verdict: Verdict) -> str:
    about = f" ({verdict.by}: {verdict.detail})" if verdict.detail else f" ({verdict.by})"
    return f"{row['answer']} {JOINT[verdict.outcome]} {row['gold']}{about}"


def named_verifiers(questions: Path) -> dict[str, str]:
    """Question id -> the verifier that its metadata names."""
    if not questions.exists():
        return {}
    table = pq.read_table(questions, columns=["question_id", "metadata"])
    table = table.filter(pc.match_substring(table["metadata"], f'"{COLUMN}"'))
    found = {row["question_id"]: how_of(row["metadata"], "") for row in table.to_pylist()}
    return {question: how for question, how in found.items() if how}
