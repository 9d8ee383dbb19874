"""Held-out questions with what became of them: gold answer, teachers' traces, and each student's text, side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.soundness.checkers import Trace
from tracestill.launch.report.records.shown import CHECKED, FalseSteps, Mark, Texts
from tracestill.trainer.evaluation.predictions import NO_VERDICT, UNDECIDED
from tracestill.trainer.measures.votes import count_of
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

Row = dict[str, Any]
QUESTIONS = 5000  # shown at most
TEACHERS = 4  # traces of teachers shown of a question at most
OLDER = {"read_by": "", "repeats": "", "finished": True, "in_form": None, "trace": "", "tokens": 0, **NO_VERDICT}
NOTHING_READ = {
    "cut_off": "cut off",
    "unclosed": "trace not closed",
    "none": "no answer found",
    "control_in_text": "not asked (holds a control symbol)",
    "refused": "refused by the server",
}


def predictions_in(directory: Path, columns: list[str] | None = None) -> list[Row]:
    """What an evaluation's students answered. Raises InputError if it cannot be read."""
    path = directory / "predictions.parquet"
    try:
        rows: list[Row] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}); delete {directory}, and evaluate again"
        ) from error
    return rows


def evaluations(run: RunDirectory, found: Row) -> dict[str, Path]:
    """Arm, or other model, -> where its evaluation lies, of those that are up to date."""
    arms = {name: run.stage(name, "evaluate") for name, row in found["arms"].items() if row["evaluation"]}
    return arms | {name: run.model(name) for name in found["models"]}


def held_out(run: RunDirectory, found: Row) -> Row:
    """``students``, and ``questions`` in the order in which they were asked: each with ``gold``, ``teachers`` and one
    of ``answers`` a student, null where it was not its question. ``left_out``: questions beyond ``QUESTIONS``;
    ``limit``: characters that a text is shown of at most; ``cut``: texts that were longer; ``checked``: questions whose
    traces were looked through for false steps."""
    read = {name: with_verdicts(predictions_in(path)) for name, path in evaluations(run, found).items()}
    every = {key: row for rows in reversed(read.values()) for key, row in rows.items()}
    order = list(dict.fromkeys(key for rows in read.values() for key in rows))
    ids = order[:QUESTIONS]
    taught = teachers_of(run, ids)
    rows = [by[key] for by in read.values() for key in ids if key in by]
    rows += [row for each in taught.values() for row in each]
    named = (row.get(name) or "" for row in rows for name in ("question", "gold", "answer", "detail", "who"))
    written = (row.get("text") or row["trace"] or "" for row in rows)
    texts = Texts([*named, *written], (row["trace"] or "" for row in rows))
    check = {name: FalseSteps(run.for_arm(name if name in found["arms"] else MAIN_ARM)) for name in read}
    teacher_check = FalseSteps(run.recipe)
    questions: list[Row] = []
    left, checked = CHECKED, 0
    for key in ids:
        of_all = [(name, rows.get(key)) for name, rows in read.items()]
        traces = [row["trace"] for row in (*(row for _, row in of_all if row), *taught.get(key, ()))]
        left -= sum(map(len, traces))
        looks = left >= 0
        checked += looks
        answers = [row and answered(row, check[name] if looks else None, texts) for name, row in of_all]
        teachers = [
            {
                "who": texts.plain(row["who"]),
                "text": texts.pieces(row["trace"], false_in(row, teacher_check, texts) if looks else ()),
                "answer": texts.plain(row["answer"] or ""),
            }
            for row in taught.get(key, ())[:TEACHERS]
        ]
        questions.append({
            "question": texts.pieces(every[key]["question"]),
            "gold": texts.plain(every[key]["gold"] or ""),
            "teachers": teachers,
            "more": max(0, len(taught.get(key, ())) - TEACHERS),
            "answers": answers,
        })  # fmt: skip
    told = {"left_out": len(order) - len(ids), "limit": texts.limit, "cut": texts.cut, "checked": checked}
    return {"students": list(read), "questions": questions, **told}


def with_verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Question id -> its prediction with ``says``: right, wrong, no answer, undecided or, where nothing tells what is
    right, not judged; as ``trainer.evaluation.predictions.summary`` counts them."""
    whole = [{**OLDER, **row} for row in rows]
    judged = count_of([[row] for row in whole])
    return {row["question_id"]: {**row, "says": said(row, known)} for row, known in zip(whole, judged, strict=True)}


def said(row: Row, judged: bool) -> str:
    if not judged:
        return "not judged"
    if row["correct"]:
        return "right"
    if row["answer"] is None:
        return "no answer"
    return "undecided" if row["verdict"] in UNDECIDED else "wrong"


def answered(row: Row, check: FalseSteps | None, texts: Texts) -> Row:
    """What one student answered to one question."""
    false = false_in(row, check, texts) if check else []
    text, trace = texts.masked[row["text"] or ""], texts.masked[row["trace"] or ""]
    at = text.find(trace) if trace.strip() else -1
    note = [f"read by: {row['read_by'].replace('_', ' ')}" if row["read_by"] else ""]
    note += [f"verifier: {row['verified_by']}" if row["verified_by"] else "", texts.plain(row["detail"] or "")]
    if at < 0 and text:  # the tokenizer wrote the trace in other characters than the whole
        note += [f"false: {why}" for _, _, why in false]
    marks = [(start + at, end + at, why) for start, end, why in false] if at >= 0 else []
    return {
        "says": row["says"],
        "text": texts.pieces(row["text"], marks) if text else texts.pieces(row["trace"] or "", false),
        "answer": None if row["answer"] is None else texts.plain(row["answer"]),
        "tokens": row["tokens"],
        "faults": faults(row, false),
        "note": "; ".join(filter(None, note)),
    }


def false_in(row: Row, check: FalseSteps, texts: Texts) -> list[Mark]:
    """The false stretches of a row's trace, in its masked text."""
    given = {name: row[name] or "" for name in ("question", "answer", "gold")}
    return check(Trace(texts.masked[row["trace"] or ""], **given))


def faults(row: Row, false: Sequence[Mark]) -> list[str]:
    """Everything that is wrong with an answer, in words that one can choose by."""
    found = []
    if row["says"] == "no answer":
        found.append(NOTHING_READ.get(row["read_by"], "no answer found"))
    elif row["says"] == "undecided":
        found.append(row["verdict"].replace("_", " "))
    elif row["says"] == "wrong":
        found.append("wrong answer")
    found += ["says the same again and again"] if row["repeats"] else []
    found += ["not in the form of its documents"] if row["in_form"] is False else []
    return [*found, *(["a false step"] if false else [])]


def teachers_of(run: RunDirectory, ids: Sequence[str]) -> dict[str, list[Row]]:
    """Question id -> what teachers wrote on it; empty where none was asked (``sample.test_samples``)."""
    found: dict[str, list[Row]] = {}
    path = run.stage(MAIN_ARM, "sample") / "records.parquet"
    for row in read_rows(path, RECORD_SCHEMA, [("question_id", "in", list(ids))]) if path.exists() and ids else ():
        who = ", ".join(filter(None, (row["teacher"], f"{row['style']:.80}")))
        own = {name: row[name] or "" for name in ("question", "gold", "trace", "answer")}
        found.setdefault(row["question_id"], []).append({**own, "who": who})
    return found
