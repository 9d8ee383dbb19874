"""The part ``evaluate.cause``: does the trace cause the answer, or does it only stand before it?

The student's own trace is changed at one step, and the student goes on from there: how often does its answer change? A
trace that is read has steps whose change moves the answer; one that only accompanies it can be cut, blanked or swapped.
Beside it: answers at once, without any trace; and the teacher's first steps in place of its own, which tell how many of
the student's mistakes are steps on which it derails.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.segmentation import Part, SegmentConfig, Segmenter
from tracestill.data_pipeline.segmentation.segmenter import GIVEN
from tracestill.trainer.measures.changes import CUT, SAME, Change, changes, kinds_of, open_end, spread, steps_of
from tracestill.trainer.measures.settings import WAYS
from tracestill.trainer.measures.spread import share, share_of_clusters
from tracestill.trainer.measures.unasked import Unasked
from tracestill.trainer.measures.votes import count_of

if TYPE_CHECKING:
    from tracestill.trainer.evaluation.parts import Context

Row = dict[str, Any]
Pair = tuple[Mapping[str, Any], Mapping[str, Any]]  # a question, and the answer of the evaluation
NAME = "cause"
ALONE, TEACHER = "no_trace", "teacher"
QUARTERS = 4
CAUSE_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("way", pa.string()),  # same, cut, corrupt, swap, blank; no_trace; teacher: begun with the teacher's steps
        ("step", pa.int32()),  # from 0; of teacher: the last one that is given
        ("steps", pa.int32()),  # of the whole trace
        ("kind", pa.string()),  # of the step
        ("begun", pa.string()),  # the trace from which the student went on
        ("closed", pa.bool_()),  # and had to answer at once
        ("before", pa.string()),  # the answer of the evaluation
        ("answer", pa.string()),  # the one that followed; null: none
        ("outcome", pa.string()),  # same, other, none
        ("judged", pa.bool_()),  # somebody can tell whether an answer is right: there is a gold one, or a judge
        ("was_right", pa.bool_()),
        ("correct", pa.bool_()),
        ("trace", pa.string()),  # all of it, what had begun included
    ]
)


def cause(context: Context) -> Row:
    """``questions`` asked, and of how many a trace could be changed (``traces``); those ``without_gold``, which have no
    part in shares right; ``inapplicable``: changes that could not be made, by way; ``not_asked``: texts that hold a
    control symbol, or leave no room; and what ``summary`` says. Writes cause.parquet."""
    config = context.recipe.evaluate.cause
    assert config is not None
    pairs = [*zip(context.questions, context.predictions, strict=True)][: config.questions]
    counts = count_of([[row] for row in context.predictions])
    judged = {row["question_id"] for row, is_so in zip(context.predictions, counts, strict=True) if is_so}
    traced = with_traces(pairs) if context.takes_traces else []
    teaches = config.teacher and context.takes_traces
    rows: list[Row] = []
    asked: list[Mapping[str, Any]] = []  # the question of each row
    inapplicable = Counter[str]()
    parts, kinds = parts_by(context.recipe.segment), context.recipe.span_kinds()
    for at, (question, row) in enumerate(traced):
        trace, other = row["trace"], traced[(at + 1) % len(traced)][1]["trace"]
        of_steps = kinds_of(trace, parts(question["question"], trace), kinds)
        draw = zlib.crc32(question["question_id"].encode())
        for change in changes(trace, of_steps, other, config.ways, config.steps, draw):
            if change.trace is None:
                inapplicable[change.way] += 1
            else:
                rows.append(begun(change, row, len(of_steps)))
                asked.append(question)
    for question, row in pairs:
        given = [(Change(ALONE, 0, "", "", closed=True), 0)]
        given += teacher_prefixes(context, question, config.steps) if teaches else []
        for change, steps in given:
            rows.append(begun(change, row, steps))
            asked.append(question)
    found = [{**row, "judged": row["question_id"] in judged} for row in answered(context, rows, asked)]
    context.write(NAME, found, CAUSE_SCHEMA)
    return {
        **{"questions": len(pairs), "without_gold": sum(row["question_id"] not in judged for _, row in pairs)},
        **{"traces": len(traced), "not_asked": len(rows) - len(found), "inapplicable": dict(inapplicable)},
        **summary(found),
    }


def with_traces(pairs: Sequence[Pair]) -> list[Pair]:
    """The questions with an answer after a trace. Of a model that closes none, all that it wrote is its trace."""
    said = [pair for pair in pairs if pair[1]["answer"] is not None and pair[1]["trace"].strip()]
    return [pair for pair in said if pair[1]["in_form"]] or said


def parts_by(config: SegmentConfig) -> Callable[[str, str], Sequence[Part]]:
    """How the recipe cuts traces; a student gives no spans, so ``segment.by: spans`` says nothing of its traces."""
    return Segmenter(SegmentConfig() if config.by == GIVEN else config).parts


def begun(change: Change, before: Mapping[str, Any], steps: int) -> Row:
    """A row, as far as it is known before the student goes on."""
    of_change = {"way": change.way, "step": change.step, "kind": change.kind, "begun": change.trace}
    was = {"question_id": before["question_id"], "before": before["answer"], "was_right": before["correct"]}
    return {**of_change, "closed": change.closed, "steps": steps, **was}


def teacher_prefixes(context: Context, question: Mapping[str, Any], most: int | None) -> list[tuple[Change, int]]:
    """The first steps of the first right trace of a teacher, one or more, but never all, and how many it has."""
    records = [row for row in context.records.get(question["question_id"], ()) if row["trace"].strip()]
    right = context.same([(row["answer"], question["gold"], question) for row in records])
    trace = next((row["trace"] for row, is_so in zip(records, right, strict=True) if is_so), "")
    steps = steps_of(trace)
    ends = spread(len(steps) - 1, most) if len(steps) > 1 else []
    return [(Change(TEACHER, at, "", open_end("".join(steps[: at + 1]))), len(steps)) for at in ends]


def answered(context: Context, rows: Sequence[Row], asked: Sequence[Mapping[str, Any]]) -> list[Row]:
    """The rows with what the student wrote, without those that could not be asked."""
    names = [(NAME, row["way"], str(row["step"])) for row in rows]
    queries = [
        context.query(question, *name, trace=row["begun"], closed=row["closed"])
        for row, question, name in zip(rows, asked, names, strict=True)
    ]
    replies = context.ask(asked, queries)
    told = [
        ({**row, **{key: reply[0][key] for key in ("answer", "correct", "trace")}}, question)
        for row, question, reply in zip(rows, asked, replies, strict=True)
        if not isinstance(reply, Unasked)
    ]
    both = [at for at, (row, _) in enumerate(told) if row["answer"] is not None and row["before"] is not None]
    alike = context.same([(told[at][0]["answer"], told[at][0]["before"], told[at][1]) for at in both])
    is_same = dict(zip(both, alike, strict=True))
    return [
        {**row, "outcome": "none" if row["answer"] is None else "same" if is_same.get(at) else "other"}
        for at, (row, _) in enumerate(told)
    ]


def summary(rows: Sequence[Mapping[str, Any]]) -> Row:
    """From rows of CAUSE_SCHEMA, each a ``spread`` row:

    ``ways``, ``by_step`` and ``by_kind``: the share of answers that changed, or went missing. ``early``: the same of
    answers at once, after a share of the steps. ``no_trace``: the share right without any, of questions ``judged``.
    ``teacher``: the share right by the number of the teacher's steps given, and ``own``, that of the same questions
    with the student's own."""
    held = {way: [row for row in rows if row["way"] == way] for way in (SAME, *WAYS, ALONE, TEACHER)}
    alone, teacher = held.pop(ALONE), held.pop(TEACHER)
    by_way = {way: of for way, of in held.items() if of}
    given = sorted({row["step"] for row in teacher})
    return {
        "ways": {way: moved(of) for way, of in by_way.items()},
        "by_step": {
            way: [{"step": step + 1, **moved(found)} for step, found in grouped(of, "step")]
            for way, of in by_way.items()
        },
        "by_kind": {way: {kind: moved(found) for kind, found in grouped(of, "kind")} for way, of in by_way.items()},
        "early": early(by_way.get(CUT, [])),
        "no_trace": {
            **right([row for row in alone if row["judged"]]),
            "asked": len(alone),
            "same": sum(row["outcome"] == "same" for row in alone),
        },
        "teacher": [{"given": n + 1, **right([row for row in teacher if row["step"] == n])} for n in given],
    }


def grouped(rows: Sequence[Mapping[str, Any]], key: str) -> list[tuple[Any, list[Mapping[str, Any]]]]:
    return [(value, [row for row in rows if row[key] == value]) for value in sorted({row[key] for row in rows})]


def moved(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The share of answers that changed or went missing; how many each; and of how many (``judged``) somebody can tell
    whether they are right, and were."""
    ids, of = np.unique([row["question_id"] for row in rows], return_inverse=True)
    changed = np.array([row["outcome"] != "same" for row in rows], np.float64)
    found = share_of_clusters(np.bincount(of, changed, len(ids)), np.bincount(of, minlength=len(ids)))
    return {
        **found,
        "other": sum(row["outcome"] == "other" for row in rows),
        "none": sum(row["outcome"] == "none" for row in rows),
        "judged": sum(row["judged"] for row in rows),
        "was_right": sum(row["was_right"] for row in rows),
        "right": sum(row["correct"] for row in rows),
    }


def right(rows: Sequence[Mapping[str, Any]]) -> Row:
    """The share right, one row a question, and ``own``: how many were right by the student alone."""
    return {**share(sum(row["correct"] for row in rows), len(rows)), "own": sum(row["was_right"] for row in rows)}


def early(cut: Sequence[Mapping[str, Any]]) -> list[Row]:
    """As ``moved``, by the share of the steps that were ``left`` (none, up to a quarter, …)."""
    found = []
    for quarter in range(QUARTERS + 1):
        rows = [row for row in cut if math.ceil(QUARTERS * row["step"] / row["steps"]) == quarter]
        if rows:
            found.append({"left": quarter / QUARTERS, **moved(rows)})
    return found
