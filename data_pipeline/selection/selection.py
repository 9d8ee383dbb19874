"""The stage `select`: which records are worth imitating, and why each of the others is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.answers.plain import normal_text
from tracestill.data_pipeline.answers.verdict import REASONS, Verdict
from tracestill.data_pipeline.answers.verifier import COLUMN, Case, Verifier, VerifyConfig, how_of, verify_config
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, REJECTED_SCHEMA, read_rows, weight_fault, write_rows
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.selection import record_weights
from tracestill.data_pipeline.selection.equations import Equation, equations

Progress = Callable[[int, int], None]

REMEDIES = {
    "no_answer": "the teacher gave no answer: look at its traces",
    "bad_weight": "mend the weights of questions and teachers, or what select.weight names",
    "wrong_answer": "a better teacher or more samples, or select.answer: false",
    "unverified": "it cannot be told whether answers are right: see verify.use, or select.answer: false",
    "verify_timeout": "comparing answers takes too long: see verify.use, or select.answer: false",
    "false_equation": "a better teacher or more samples, or select.equations: false",
}


class SelectConfig(BaseModel):
    """With every check off and no maximum, only records without an answer are rejected: the unfiltered ablation."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    answer: bool = Field(True, description="reject a record whose answer is not the gold one")
    equations: bool = Field(True, description="reject a trace with a false equation")
    unique_paths: bool = Field(True, description="reject a trace whose equations another kept one of its question has")
    max_per_question: int | None = Field(None, ge=1, description="records kept of one question; null: all")
    weight: Name = Field(
        "given",
        description="how much each kept record counts: given (as its question and teacher say, else 1), per_question "
        "(that, divided by the number of its question's kept records of a weight above 0), or "
        "my_pkg.my_module:my_weights",
    )

    @field_validator("weight")
    @classmethod
    def _found(cls, weight: str) -> str:
        if record_weights.own_module(weight) is None or not own_modules.is_looking():
            record_weights.find(weight)
        return weight


def stage_config(
    select: SelectConfig, memory: Path | None = None, verify: VerifyConfig = VerifyConfig()
) -> dict[str, Any]:
    """What identifies a run of this stage; ``stage.is_current`` takes it with the input ``sample``. ``memory`` is as
    in ``content.digests``."""
    found = contents({record_weights.FIELD: record_weights.own_files(select.weight)}, memory)
    own = {**select.model_dump(mode="json", exclude_defaults=True), **({CONTENTS: found} if found else {})}
    return own | verify_config(verify, memory)


def run(
    select: SelectConfig,
    *,
    directory: Path,
    sample: Path,
    progress: Progress = lambda done, total: None,
    memory: Path | None = None,
    verifier: Verifier = Verifier(),
) -> None:
    """Read ``sample``/records.parquet; write records.parquet and rejected.parquet (with reason and detail).

    Calls ``progress(done, total)`` with records. The manifest counts those kept that weigh nothing as ``weightless``,
    if there are any.

    Reasons, in the order of the checks; the first one that applies is the verdict: ``no_answer``, ``wrong_answer``,
    ``unverified`` and ``verify_timeout`` (it cannot be told whether the answer is right), ``false_equation``,
    ``same_path``, ``over_maximum``; and ``bad_weight`` for one whose weight, its own or by ``select.weight``, is no
    finite number >= 0. Raises InputError, with counts by reason, if none survives.
    """
    config = stage_config(select, memory, verifier.config)
    with stage(directory, "select", config, {"sample": sample}) as work:
        rows = read_rows(sample / "records.parquet", RECORD_SCHEMA)
        answers = wrong_answers(rows, sample, verifier) if select.answer else {}
        verdicts = dict(judge(select, rows, answers, progress))
        weights = record_weights.weigh(select.weight, (row for row in rows if row["record_id"] not in verdicts))
        for record, weight in weights.items():
            if wrong := weight_fault(weight):
                verdicts[record] = "bad_weight", f"its weight by {record_weights.FIELD}: {wrong}"
        kept = [{**row, "weight": float(weights[i])} for row in rows if (i := row["record_id"]) not in verdicts]
        rejected = [
            {**row, "reason": verdicts[row["record_id"]][0], "detail": verdicts[row["record_id"]][1]}
            for row in rows
            if row["record_id"] in verdicts
        ]
        reasons = Counter(row["reason"] for row in rejected)
        if len(kept) + sum(reasons.values()) != len(rows):
            raise AssertionError(f"selection lost records: {len(rows)} in, {len(kept)} out, {dict(reasons)} rejected")
        if not kept:
            raise InputError(nothing_left(sample, len(rows), reasons))
        write_rows(work.path / "records.parquet", kept, RECORD_SCHEMA)
        write_rows(work.path / "rejected.parquet", rejected, REJECTED_SCHEMA)
        work.counts = {
            "in": len(rows),
            "out": len(kept),
            **({"weightless": weightless} if (weightless := sum(row["weight"] == 0 for row in kept)) else {}),
            "rejected": dict(sorted(reasons.items())),
            "questions_in": len({row["question_id"] for row in rows}),
            "questions_out": len({row["question_id"] for row in kept}),
        }


def judge(
    select: SelectConfig, rows: list[dict[str, Any]], wrong: dict[str, tuple[str, str]], progress: Progress
) -> Iterator[tuple[str, tuple[str, str]]]:
    """(record id, (reason, detail)) of each rejected record; ``wrong``: of those whose answer is not right.

    Where only some of several records stay, those that weigh nothing go first, and of the others those of the smallest
    record id stay: it is a hash of the provenance, so the choice favours no teacher and no temperature.
    """
    paths: dict[tuple[str, str], str] = {}
    taken: Counter[str] = Counter()
    for at, row in enumerate(sorted(rows, key=lambda row: (row["weight"] == 0, row["record_id"])), start=1):
        progress(at, len(rows))
        record, question = row["record_id"], row["question_id"]
        found = equations(row["trace"]) if select.equations or select.unique_paths else []
        if verdict := fault(select, row, found, wrong.get(record)):
            yield record, verdict
            continue
        if select.unique_paths:
            path = reasoning_path(row["trace"], found)
            if (other := paths.setdefault((question, path), record)) != record:
                yield record, ("same_path", f"the equations of record {other}")
                continue
        if select.max_per_question is not None and taken[question] == select.max_per_question:
            yield record, ("over_maximum", f"{select.max_per_question} records of this question are kept")
            continue
        taken[question] += 1


def fault(
    select: SelectConfig, row: dict[str, Any], found: list[Equation], wrong: tuple[str, str] | None
) -> tuple[str, str] | None:
    """Reason and detail if the record by itself is not worth imitating."""
    if not row["answer"].strip():
        return "no_answer", "the answer is empty"
    if bad := weight_fault(row["weight"]):
        return "bad_weight", f"its weight: {bad}"
    if wrong is not None:
        return wrong
    if select.equations:
        for equation in found:
            if not equation.holds:
                return "false_equation", equation.text
    return None


def wrong_answers(rows: list[dict[str, Any]], sample: Path, verifier: Verifier) -> dict[str, tuple[str, str]]:
    """Record id -> (reason, detail) of those whose answer is not right; an empty answer is nobody's business here."""
    said = [row for row in rows if row["answer"].strip()]
    how = named_verifiers(sample / "questions.parquet")
    default = verifier.config.use
    cases = [Case(row["answer"], row["gold"], row["question"], how.get(row["question_id"], default)) for row in said]
    return {
        row["record_id"]: (REASONS[verdict.outcome], told(row, verdict))
        for row, verdict in zip(said, verifier.verdicts(cases), strict=True)
        if not verdict.right
    }


def told(row: dict[str, Any], verdict: Verdict) -> str:
    about = f" ({verdict.by}: {verdict.detail})" if verdict.detail else f" ({verdict.by})"
    joint = {"wrong": "is not", "cannot_tell": "may or may not be", "timeout": "was compared too long with"}
    return f"{row['answer']} {joint[verdict.outcome]} {row['gold']}{about}"


def named_verifiers(questions: Path) -> dict[str, str]:
    """Question id -> the verifier that its metadata names."""
    if not questions.exists():
        return {}
    table = pq.read_table(questions, columns=["question_id", "metadata"])
    table = table.filter(pc.match_substring(table["metadata"], f'"{COLUMN}"'))
    found = {row["question_id"]: how_of(row["metadata"], "") for row in table.to_pylist()}
    return {question: how for question, how in found.items() if how}


def reasoning_path(trace: str, found: list[Equation]) -> str:
    """What two traces that reason alike have in common: their equations in order, or the text if they have none."""
    return "\n".join(equation.path for equation in found) if found else normal_text(trace)


def nothing_left(sample: Path, total: int, reasons: Counter[str]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in reasons.most_common()) or "there were none to select from"
    remedy = REMEDIES.get(reasons.most_common(1)[0][0], "") if reasons else "sample some first"
    return f"{sample / 'records.parquet'}: no record of {total} survives selection ({counts}); {remedy}"
