"""The yield report of a run, as JSON: what came of everything that was asked for, and what could come of more."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import output_digest, read_manifest
from tracestill.data_pipeline.yields import table
from tracestill.data_pipeline.yields.ceiling import unsolved
from tracestill.data_pipeline.yields.yields import (
    Samples,
    by,
    difficulty,
    policies,
    policy_of,
    samples_of,
    summed,
)

FORMAT = 1
DEFAULT = ("teacher", "temperature", "style")


def yield_report(sample: Path, select: Path, dimensions: Sequence[str] | None = None) -> dict[str, Any] | None:
    """What the stages in these directories made of training questions; held-out ones are never trained on.

    ``total``: the row of all samples; ``by``: dimension -> rows (``yields.by``), without dimensions that have one value
    unless ``dimensions`` asks for them; ``policies``, ``difficulty``, ``unsolved`` as the functions of these names;
    ``policy``: the run's, and ``needed``: the flags that it needs; ``held_out``: samples that are left out here;
    ``unknown``: samples without a record of which an older version did not say who was asked what; ``notes``: what to
    keep in mind. None if no training question was asked. Raises InputError if a file cannot be read, or the records
    were sampled anew after they were selected.
    """
    selected = read_manifest(select)
    if selected is None or selected.get("inputs", {}).get("sample") != output_digest(sample):
        why = "has not finished" if selected is None else f"is not of what {sample} holds now"
        raise InputError(f"{select}: {why}; run `tracestill select` first")
    verdicts, unknown = table.yield_table(sample, select)
    questions = table.questions_of(sample)
    questions = questions.filter(pc.equal(questions["split"], "train"))
    texts_as_they_are = table.general(sample)  # of which nobody was asked anything
    questions = questions.filter(pc.invert(pc.is_in(questions["question_id"], value_set=texts_as_they_are)))
    was_asked = pc.is_in(questions["question_id"], value_set=verdicts["question_id"])
    unasked = questions.num_rows - (pc.sum(was_asked).as_py() or 0)
    questions = questions.filter(was_asked)
    if not questions.num_rows:
        return None
    votes, needed = table.votes(sample), table.needed(selected.get("config", {}))
    samples = samples_of(verdicts, questions["question_id"].to_pylist(), votes, table.costs(sample))
    counts = (read_manifest(sample) or {}).get("counts", {})
    found: dict[str, Any] = {
        "format": FORMAT,
        "policy": policy_of(needed),
        "needed": list(needed),
        "held_out": verdicts.num_rows - len(samples.question) - len(texts_as_they_are),
        "unknown": unknown,
        "unasked": unasked,
        "cost": counts.get("cost"),
        "total": summed(samples, needed),
        "by": {},
        "policies": policies(samples, selected.get("counts", {}).get("policies", {})),
        "difficulty": difficulty(samples, needed),
        "unsolved": unsolved(samples, questions, lined_up(verdicts, samples, questions, sample), texts(votes)),
    }
    for dimension in DEFAULT if dimensions is None else dimensions:
        rows = by(samples, dimension, needed)
        if dimensions is not None or len(rows) > 1:
            found["by"][dimension] = named(rows, questions) if dimension == "question" else rows
    found["notes"] = notes(found, samples, (read_manifest(sample) or {}).get("config", {}))
    if without := counts.get("source", {}).get("gold_from_traces"):
        found["notes"].append(
            f"{without:,} questions of the source have no gold answer: what most of their traces answer is taken for "
            "it, so right says that samples agree, and of a question asked once nothing"
        )
    return found


def lined_up(verdicts: pa.Table, samples: Samples, questions: pa.Table, sample: Path) -> np.ndarray:
    """(S,) operations in the trace of each sample, -1 for one that gave none."""
    held = table.operations(sample)
    ids = verdicts.filter(pc.is_in(verdicts["question_id"], value_set=questions["question_id"]))["record_id"]
    at = pc.index_in(ids, value_set=held["record_id"])
    return np.asarray(pc.fill_null(pc.take(held["operations"], at), -1))


def texts(votes: pa.Table) -> dict[int, str]:
    """Each vote's number -> the first text of it."""
    numbers = np.asarray(votes["vote"])
    codes, first = np.unique(numbers, return_index=True)
    return dict(zip(codes.tolist(), votes["answer"].take(first).to_pylist(), strict=True))


def named(rows: list[dict[str, Any]], questions: pa.Table) -> list[dict[str, Any]]:
    """Rows of questions with their text, the hardest first."""
    text = dict(zip(questions["question_id"].to_pylist(), questions["question"].to_pylist(), strict=True))
    told = [{**row, "question": text[row["value"][0]]} for row in rows]
    return sorted(told, key=lambda row: (row["right"] or 0) / row["asked"])


def notes(found: dict[str, Any], samples: Samples, config: dict[str, Any]) -> list[str]:
    """What a reader has to keep in mind of these numbers."""
    asked = samples.asked
    told = []
    if found["held_out"]:
        told.append(f"{found['held_out']:,} samples of held-out questions are not counted here: nothing trains on them")
    if found["unknown"]:
        told.append(
            f"{found['unknown']:,} samples that gave no record, some of them perhaps of held-out questions, are not "
            "counted: this run was sampled by a version that did not keep who was asked what (`tracestill sample` on a "
            "copy of the run, with its journal, asks nobody again and keeps it)"
        )
    if found["cost"]:
        told.append(f"sampling has cost {found['cost']:g} in all, held-out questions and what gave no record included")
    if found["unasked"]:
        told.append(f"{found['unasked']:,} training questions were never asked (budget, or no trace of theirs)")
    if config.get("sample", {}).get("until"):
        told.append("sample.until asks hard questions more often, and stops at right ones: pass@k and maj@k are biased")
    elif asked.min() != asked.max():
        told.append(f"questions were asked {asked.min():,} to {asked.max():,} times; pass@k is of those asked k times")
    if found["total"]["sound"] is None:
        told.append("select.checks names nobody: soundness was not looked at")
    if asked.max() == 1:
        told.append("every question was asked once: a question's difficulty is one sample, right or wrong")
    return told
