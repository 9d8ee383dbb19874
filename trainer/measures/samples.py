"""The part ``evaluate.samples``: several answers to each question, what votes among them are worth, and calibration.

Self-consistency after Wang et al. (arXiv 2203.11171): the answer that most samples give, whatever their traces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.soundness.checkers import Trace
from tracestill.data_pipeline.soundness.checkers.chain import Checks
from tracestill.trainer.measures.calibration import calibration
from tracestill.trainer.measures.consistency import Drawn, confidence, curve
from tracestill.trainer.measures.unasked import Unasked
from tracestill.trainer.measures.votes import NONE, count_of, votes_of

if TYPE_CHECKING:
    from tracestill.trainer.evaluation.parts import Context

Row = dict[str, Any]
NAME = "samples"
SAMPLE_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("sample", pa.int32()),
        ("text", pa.string()),
        ("trace", pa.string()),
        ("answer", pa.string()),  # null: none
        ("read_by", pa.string()),
        ("correct", pa.bool_()),
        ("verdict", pa.string()),
        ("vote", pa.int32()),  # equal for equal answers to a question; 0: right, -1: none
        ("sound", pa.bool_()),  # nothing in the trace is known to be false (select.checks)
        ("logprob", pa.float64()),  # nats, of all tokens; null: not told
        ("tokens", pa.int32()),
        ("finished", pa.bool_()),
    ]
)


def samples(context: Context) -> Row:
    """``count`` and ``temperature``; ``questions`` that were asked and have a gold answer; ``curve`` over k;
    ``answers``: different ones of a question, in the mean; ``calibration`` by ``votes``, ``likelihood`` and
    ``answer``. Writes samples.parquet."""
    config = context.recipe.evaluate.samples
    assert config is not None
    queries = [
        context.query(question, NAME, samples=config.count, temperature=config.temperature)
        for question in context.questions
    ]
    asked = context.ask(context.questions, queries)
    pairs = [
        (question, rows)
        for question, rows in zip(context.questions, asked, strict=True)
        if not isinstance(rows, Unasked)
    ]
    questions, rows = [question for question, _ in pairs], [rows for _, rows in pairs]
    votes = votes_of(rows, questions, context.same)
    check = Checks(context.recipe.select.checks, "select.checks")
    sound = [[is_sound(check, row, question) for row in each] for question, each in pairs]
    context.write(NAME, kept(rows, votes, sound), SAMPLE_SCHEMA)
    judged = [at for at, counts in enumerate(count_of(rows)) if counts]
    found: Row = {
        "count": config.count,
        "temperature": config.temperature,
        "questions": len(judged),
        "not_asked": len(asked) - len(pairs),
        "without_gold": len(pairs) - len(judged),
    }
    if not judged:
        return {**found, "answers": None, "curve": [], "calibration": {}}
    drawn = Drawn(
        np.array([votes[at] for at in judged]),
        weights([rows[at] for at in judged]),
        np.array([sound[at] for at in judged]),
    )
    by = {"votes": confidence(drawn.vote, np.ones(drawn.vote.shape))}
    if drawn.weight is not None:
        by["likelihood"] = confidence(drawn.vote, drawn.weight)
    by["answer"] = answer_probability(context)
    return {
        **found,
        "answers": float(np.mean([len(set(votes[at]) - {NONE}) for at in judged])),
        "curve": curve(drawn, config.shown, context.recipe.seed),
        "calibration": {name: calibration(*pair, config.bins, context.recipe.seed) for name, pair in by.items()},
    }


def is_sound(check: Checks, row: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether nothing in a trace is found false, by those checkers that ask nobody."""
    trace = Trace(row["trace"], question["question"], row["answer"] or "", question["gold"])
    return check.first_false(trace, ask=False) is None


def weights(rows: Sequence[Sequence[Mapping[str, Any]]]) -> np.ndarray | None:
    """(Q, n) likelihood of each text, the geometric mean over its tokens: else long ones would count for nothing. None
    if somebody does not tell that of an answer; a text without one, as what a server refused, then weighs nothing."""
    if any(row["logprob"] is None and row["answer"] is not None for each in rows for row in each):
        return None
    found = np.array([[likelihood(row) for row in each] for each in rows])
    return found if found.any() else None


def likelihood(row: Mapping[str, Any]) -> float:
    return 0.0 if row["logprob"] is None else math.exp(row["logprob"] / max(row["tokens"], 1))


def kept(rows: Sequence[Sequence[Row]], votes: Sequence[Sequence[int]], sound: Sequence[Sequence[bool]]) -> list[Row]:
    return [
        {**{key: row.get(key) for key in SAMPLE_SCHEMA.names}, "sample": at, "vote": vote, "sound": is_so}
        for each, of, so in zip(rows, votes, sound, strict=True)
        for at, (row, vote, is_so) in enumerate(zip(each, of, so, strict=True))
    ]


def answer_probability(context: Context) -> tuple[np.ndarray, np.ndarray]:
    """The probability of each answer of the evaluation after its trace, and 1 if it is right, else 0: (R,) each.

    The student gets its own trace, closed, and writes the answer greedily: what it then writes has the probability. It
    is left out where another answer comes, as where the trace cannot be written again as it was, or nobody tells.
    """
    counts = count_of([[row] for row in context.predictions])
    use = [
        (question, row)
        for question, row, is_so in zip(context.questions, context.predictions, counts, strict=True)
        if is_so and row["in_form"] and row["answer"] is not None
        if context.takes_traces or not row["trace"]
    ]
    questions = [question for question, _ in use]
    queries = [context.query(question, NAME, "answer", trace=row["trace"], closed=True) for question, row in use]
    p, right = [], []
    for (_, row), said in zip(use, context.ask(questions, queries), strict=True):
        if isinstance(said, Unasked):
            continue
        if said[0]["answer"] == row["answer"] and said[0]["logprob"] is not None:
            p.append(math.exp(said[0]["logprob"]))
            right.append(float(row["correct"]))
    return np.array(p), np.array(right)
