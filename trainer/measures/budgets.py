"""The part ``evaluate.budgets``: what a student gets right with so many tokens for its thought, and no more.

A thought that is longer than its budget is cut there, closed, and the student has to answer (forced end). One that
ends too early may be made to go on, by a text in place of its end (forced continuation), after Muennighoff et al. (s1:
simple test-time scaling, arXiv 2501.19393). Thoughts within their budget are those of the evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tracestill.trainer.measures.spread import share
from tracestill.trainer.measures.unasked import Unasked, was_asked
from tracestill.trainer.measures.votes import count_of

if TYPE_CHECKING:
    from tracestill.trainer.evaluation.parts import Context

Row = dict[str, Any]
NAME = "budgets"
OWN, ENDED, NOT_ASKED = "own", "ended", "not_asked"
PER = 1000  # tokens that right answers are counted by
BUDGET_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("budget", pa.int32()),  # tokens of the thought at most; null: as many as the evaluation allows
        ("way", pa.string()),  # own: the thought ended by itself; ended: it was made to; not_asked
        ("continued", pa.int32()),  # times that it was made to go on
        ("tokens", pa.int32()),  # of thought and answer, without those that others put there
        ("answer", pa.string()),  # null: none
        ("correct", pa.bool_()),
        ("verdict", pa.string()),
        ("trace", pa.string()),
        ("text", pa.string()),
    ]
)


def budgets(context: Context) -> Row:
    """``questions``, those that are left out (``without_gold``), and ``curve``: for each budget, and for none (null,
    the last), what ``point`` says. Writes budgets.parquet."""
    config = context.recipe.evaluate.budgets
    assert config is not None
    counts = count_of([[row] for row in context.predictions])
    pairs = [*zip(context.questions, context.predictions, counts, strict=True)][: config.questions]
    questions, free = [question for question, _, is_so in pairs if is_so], [row for _, row, is_so in pairs if is_so]
    rows = [row for budget in config.tokens for row in within(context, questions, budget)]
    for row in free:
        rows.append({**row, "budget": None, "way": OWN if was_asked(row) else NOT_ASKED, "continued": 0})
    context.write(NAME, [{key: row[key] for key in BUDGET_SCHEMA.names} for row in rows], BUDGET_SCHEMA)
    found = {"questions": len(questions), "without_gold": len(pairs) - len(questions)}
    return {**found, "curve": [point(rows, budget) for budget in (*config.tokens, None)]}


def within(context: Context, questions: Sequence[Mapping[str, Any]], budget: int) -> list[Row]:
    """The answer to each question whose thought has this budget."""
    config, most = context.recipe.evaluate.budgets, context.recipe.evaluate.max_new_tokens
    assert config is not None
    rows = thoughts(context, questions, [""] * len(questions), [budget] * len(questions), most)
    rows = [{**row, "budget": budget, "continued": 0} for row in rows]
    for _ in range(config.continuations if config.continuation and context.takes_traces else 0):
        early = [
            at
            for at, row in enumerate(rows)
            if row["way"] == OWN and row["trace"].strip() and row["trace_tokens"] < budget
        ]
        begun = [f"{rows[at]['trace'].rstrip()}\n{config.continuation}" for at in early]
        rooms = [budget - rows[at]["trace_tokens"] for at in early]
        most = max(rooms, default=0) + config.answer_tokens
        found = thoughts(context, [questions[at] for at in early], begun, rooms, most)
        for at, row in zip(early, found, strict=True):
            if row["way"] != NOT_ASKED:
                more = {key: rows[at]["trace_tokens"] + row[key] for key in ("tokens", "trace_tokens")}
                rows[at] = {**row, "budget": budget, "continued": rows[at]["continued"] + 1, **more}
    return rows


def thoughts(
    context: Context,
    questions: Sequence[Mapping[str, Any]],
    begun: Sequence[str],
    rooms: Sequence[int],
    most: int,
) -> list[Row]:
    """The answer to each question after a thought that has begun and has room for so many tokens more: its own, if the
    thought ends in time (then thought and answer have ``most``), else the one that it is made to give."""
    config, temperature = context.recipe.evaluate.budgets, context.recipe.evaluate.temperature
    assert config is not None

    def ask(limits: Sequence[int], traces: Sequence[str], *, closed: bool, only: Sequence[int]) -> list[Row | None]:
        queries = [
            context.query(questions[at], temperature=temperature, trace=trace, closed=closed)._replace(
                max_new_tokens=limit
            )
            for at, trace, limit in zip(only, traces, limits, strict=True)
        ]
        found = context.ask([questions[at] for at in only], queries)
        return [None if isinstance(each, Unasked) else each[0] for each in found]

    everyone = range(len(questions))
    whole = ask([max(most, room) for room in rooms], begun, closed=False, only=everyone)
    short = ask(rooms, begun, closed=False, only=everyone)  # a beginning of the same
    rows: list[Row] = []
    over: list[int] = []
    for at, (full, cut) in enumerate(zip(whole, short, strict=True)):
        if full is None or cut is None:
            rows.append({**nothing(questions[at]), "way": NOT_ASKED})
        elif cut["finished"] or (full["finished"] and full["trace"].strip() == cut["trace"].strip()):
            rows.append({**full, "way": OWN})
        else:
            rows.append({**cut, "way": ENDED})
            over.append(at)
    begun = [rows[at]["trace"] if context.takes_traces else "" for at in over]
    ended = ask([config.answer_tokens] * len(over), begun, closed=True, only=over)
    for at, row in zip(over, ended, strict=True):
        tokens = rows[at]["tokens"] + (row["tokens"] if row else 0)
        rows[at] = {**(row or nothing(questions[at])), "way": ENDED if row else NOT_ASKED, "tokens": tokens}
    return rows


def nothing(question: Mapping[str, Any]) -> Row:
    """Of a text that was not asked for."""
    none = {"answer": None, "correct": False, "verdict": "", "trace": "", "text": ""}
    return {"question_id": question["question_id"], **none, "tokens": 0, "trace_tokens": 0}


def point(rows: Sequence[Row], budget: int | None) -> Row:
    """``budget``; shares, with intervals, of the questions ``answered`` and ``right``, and of thoughts ``ended`` and
    ``continued``; ``tokens_mean`` of thought and answer; ``right_per_1000_tokens`` (null: none was written)."""
    held = [row for row in rows if row["budget"] == budget]
    tokens, right = sum(row["tokens"] for row in held), sum(row["correct"] for row in held)
    return {
        "budget": budget,
        "answered": share(sum(row["answer"] is not None for row in held), len(held)),
        "right": share(right, len(held)),
        "ended": share(sum(row["way"] == ENDED for row in held), len(held)),
        "continued": share(sum(row["continued"] > 0 for row in held), len(held)),
        "tokens_mean": tokens / len(held) if held else None,
        "right_per_1000_tokens": PER * right / tokens if tokens else None,
    }
