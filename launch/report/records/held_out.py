"""Held-out questions with what became of them: gold answer, teachers' traces, and each student's text, side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.report.records.false_steps import Asked, checkers_of, false_in_all
from tracestill.launch.report.records.own_losses import OwnLosses
from tracestill.launch.report.records.shown import Mark, Texts
from tracestill.trainer.evaluation.predictions import BY_TOKEN, NO_VERDICT, UNDECIDED
from tracestill.trainer.measures.votes import count_of
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

Row = dict[str, Any]
Key = tuple[str, str, int]  # see ``keys_of``
QUESTIONS = 5000  # shown at most
CHECKED = 16_000_000  # characters of traces that are looked through for false steps: 40 s of a core
TEACHERS = 4  # traces of teachers shown of a question at most
OLDER = {"read_by": "", "repeats": "", "finished": True, "in_form": None, "trace": "", "tokens": 0, **NO_VERDICT}
NOTHING_READ = {
    "cut_off": "cut off",
    "unclosed": "trace not closed",
    "none": "no answer found",
    "control_in_text": "not asked (holds a control symbol)",
    "overlong": "not asked (no room for an answer)",
    "refused": "refused by the server",
}


def predictions_in(directory: Path, columns: list[str] | None = None) -> list[Row]:
    """What an evaluation's students answered, without what is known of each token. Raises InputError if it cannot be
    read."""
    path = directory / "predictions.parquet"
    try:
        columns = columns or [name for name in pq.read_schema(path).names if name not in BY_TOKEN]
        rows: list[Row] = pq.read_table(path, columns=columns).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a readable Parquet file ({error}); delete {directory}, and evaluate again"
        ) from error
    return rows


class Source(NamedTuple):
    """A run of a page."""

    run: RunDirectory
    found: Row  # see ``report.gather``
    label: str = ""  # before the names of its students and teachers, on a page of several runs


def labelled(label: str, name: str) -> str:
    return f"{label}: {name}" if label else name


def evaluations(run: RunDirectory, found: Row) -> dict[str, Path]:
    """Arm, or other model, -> where its evaluation lies, of those that are up to date."""
    arms = {name: run.stage(name, "evaluate") for name, row in found["arms"].items() if row["evaluation"]}
    return arms | {name: run.model(name) for name in found["models"]}


def held_out(sources: Sequence[Source], workers: int | None = None) -> Row:
    """``students`` of all runs, and ``questions`` in the order in which they were asked, those first that most runs
    asked: each with ``gold``, ``teachers`` and one of ``answers`` a student, null where it was not its question.
    ``shared``: questions that all runs asked; ``left_out``: those beyond ``QUESTIONS``; ``limit``: characters that a
    text is shown of at most; ``cut``: texts that were longer; ``characters`` of all that are shown; ``checked``:
    questions whose traces were looked through for false steps, by so many ``workers``; ``full``: the loss of a token
    that has the full colour, None where none is known; ``uncoloured``: texts whose losses are known and not shown."""
    read: dict[str, dict[Key, Row]] = {}
    checkers: dict[str, tuple[str, ...]] = {}
    directories: dict[str, Path] = {}
    keys: list[dict[str, Key]] = []
    for source in sources:
        places = evaluations(source.run, source.found)
        own = {name: with_verdicts(predictions_in(path)) for name, path in places.items()}
        keys.append(keys_of([row for by in own.values() for row in by.values()]))
        for name, by in own.items():
            arm = name if name in source.found["arms"] else MAIN_ARM
            student = labelled(source.label, name)
            read[student] = {keys[-1][one]: row for one, row in by.items()}
            checkers[student], directories[student] = checkers_of(source.run.for_arm(arm)), places[name]
    asked = Counter(key for known in keys for key in known.values())  # by so many runs
    order = sorted(dict.fromkeys(key for by in read.values() for key in by), key=lambda key: -asked[key])
    first = order[:QUESTIONS]
    taught = taught_of(sources, keys, first)
    rows = {
        key: [*({**by[key], "by": checkers[name]} for name, by in read.items() if key in by), *taught.get(key, ())]
        for key in first
    }
    every = [row for of_question in rows.values() for row in of_question]
    named = (row.get(name) or "" for row in every for name in ("question", "gold", "answer", "detail", "who"))
    texts = Texts([*named, *(written(row) for row in every)], (row["trace"] or "" for row in every))
    checked = mark_false(list(rows.values()), texts, workers)
    questions, losses = [], OwnLosses(len(read))
    of_tokens = {
        name: losses.of_student(directories[name], [(key, by[key]) for key in first if key in by], texts)
        for name, by in read.items()
    }
    for key, of_question in rows.items():
        teachers = [row for row in of_question if "who" in row]
        answers = iter(row for row in of_question if "who" not in row)
        questions.append({
            "question": texts.pieces(of_question[0]["question"]),
            "gold": texts.plain(of_question[0]["gold"] or ""),
            "teachers": [taught_by(row, texts) for row in teachers[:TEACHERS]],
            "more": max(0, len(teachers) - TEACHERS),
            "answers": [
                {**answered(next(answers), texts), "loss": of_tokens[name].get(key)} if key in by else None
                for name, by in read.items()
            ],
        })  # fmt: skip
    told: Row = {"left_out": len(order) - len(first), "limit": texts.limit, "cut": texts.cut, "checked": checked}
    told |= {"characters": texts.characters, "full": losses.full, "uncoloured": losses.without}
    shared = sum(count == len(sources) for count in asked.values())
    return {"students": list(read), "questions": questions, "runs": len(sources), "shared": shared, **told}


def keys_of(rows: Sequence[Row]) -> dict[str, Key]:
    """Id of a run's question -> what it is in all runs: its text and gold answer, and which of those that are alike."""
    alike: Counter[tuple[str, str]] = Counter()
    found: dict[str, Key] = {}
    for row in rows:
        if row["question_id"] not in found:
            text = row["question"], row["gold"] or ""
            found[row["question_id"]] = *text, alike[text]
            alike[text] += 1
    return found


def written(row: Row) -> str:
    """What is shown of what somebody wrote: everything, or the trace where no more is known."""
    return row.get("text") or row["trace"] or ""


def mark_false(rows: Sequence[Sequence[Row]], texts: Texts, workers: int | None) -> int:
    """Put the ``false`` stretches of its masked trace into each row, question by question; how many were looked at."""
    ends = np.cumsum([sum(len(row["trace"] or "") for row in of_question) for of_question in rows])
    looked = int(np.searchsorted(ends, CHECKED, side="right"))
    first = [row for of_question in rows[:looked] for row in of_question]
    asked = [
        Asked(
            row["by"], texts.masked[row["trace"] or ""], *(row[name] or "" for name in ("question", "answer", "gold"))
        )
        for row in first
    ]
    for row, marks in zip(first, false_in_all(asked, workers), strict=True):
        row["false"] = marks
    return looked


def with_verdicts(rows: Sequence[Mapping[str, Any]]) -> dict[str, Row]:
    """Question id -> its prediction with ``at``, its place among them, and ``says``: right, wrong, no answer, undecided
    or, where nothing tells what is right, not judged; as ``trainer.evaluation.predictions.summary`` counts them."""
    whole = [{**OLDER, **row, "at": at} for at, row in enumerate(rows)]
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


def answered(row: Row, texts: Texts) -> Row:
    """What one student answered to one question."""
    false = row.get("false", [])
    text, trace = texts.masked[row["text"] or ""], texts.masked[row["trace"] or ""]
    at = text.find(trace) if trace.strip() else -1
    note = [f"read by: {row['read_by'].replace('_', ' ')}" if row["read_by"] else ""]
    note += [f"verifier: {row['verified_by']}" if row["verified_by"] else "", texts.plain(row["detail"] or "")]
    marks = false if not text else [(start + at, end + at, why) for start, end, why in false] if at >= 0 else []
    if not marks:  # the tokenizer wrote the trace in other characters than the whole
        note += [f"false: {visible(why)}" for _, _, why in false]
    return {
        "says": row["says"],
        "text": texts.pieces(written(row), marks),
        "answer": None if row["answer"] is None else texts.plain(row["answer"]),
        "tokens": row["tokens"],
        "faults": faults(row, false),
        "note": "; ".join(filter(None, note)),
    }


def taught_by(row: Row, texts: Texts) -> Row:
    """What one teacher wrote on one question."""
    text = texts.pieces(row["trace"], row.get("false", []))
    return {"who": texts.plain(row["who"]), "text": text, "answer": texts.plain(row["answer"])}


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


def taught_of(
    sources: Sequence[Source], keys: Sequence[Mapping[str, Key]], first: Sequence[Key]
) -> dict[Key, list[Row]]:
    """What teachers of all runs wrote on the ``first`` questions; what is alike in several runs once, under all their
    names."""
    wanted, found = set(first), dict[Key, dict[tuple[Any, ...], tuple[Row, list[str]]]]()
    for source, known in zip(sources, keys, strict=True):
        ids = {one: key for one, key in known.items() if key in wanted}
        for one, rows in teachers_of(source.run, list(ids)).items():
            alike: Counter[tuple[str, ...]] = Counter()
            for row in rows:
                text = row["who"], row["trace"], row["answer"]
                of_key = found.setdefault(ids[one], {})
                of_key.setdefault((*text, alike[text]), (row, []))[1].append(source.label)
                alike[text] += 1
    return {
        key: [{**row, "who": labelled(", ".join(labels), row["who"])} for row, labels in rows.values()]
        for key, rows in found.items()
    }


def teachers_of(run: RunDirectory, ids: Sequence[str]) -> dict[str, list[Row]]:
    """Question id -> what teachers wrote on it; empty where none was asked (``sample.test_samples``)."""
    found: dict[str, list[Row]] = {}
    path = run.stage(MAIN_ARM, "sample") / "records.parquet"
    for row in read_rows(path, RECORD_SCHEMA, [("question_id", "in", list(ids))]) if path.exists() and ids else ():
        who = ", ".join(filter(None, (row["teacher"], f"{row['style']:.80}")))
        own = {name: row[name] or "" for name in ("question", "gold", "trace", "answer")}
        found.setdefault(row["question_id"], []).append({**own, "who": who, "by": checkers_of(run.recipe)})
    return found
