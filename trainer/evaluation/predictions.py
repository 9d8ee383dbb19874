"""What came of asking: a row for each question, read, verified and summed up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.answers.find import Found, find_answer
from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verdict import Verdict
from tracestill.data_pipeline.answers.verifier import Case, Verifier, how_of
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.tokens.layout import Reading
from tracestill.trainer.measures.spread import bootstrap, share
from tracestill.trainer.measures.unasked import Unasked, was_asked
from tracestill.trainer.measures.votes import count_of

Row = TypeVar("Row", bound=Mapping[str, Any])
UNDECIDED = ("cannot_tell", "timeout")
NO_VERDICT = {
    "correct": False,
    "verdict": "",
    "verified_by": "",
    "answer_as_read": "",
    "gold_as_read": "",
    "detail": "",
}

BY_TOKEN = "ends", "logprobs"
PREDICTION_SCHEMA = pa.schema(
    [
        ("question_id", pa.string()),
        ("question", pa.string()),
        ("gold", pa.string()),
        ("text", pa.string()),  # everything the student wrote, control symbols included
        ("trace", pa.string()),
        ("answer", pa.string()),  # null: cut off, or no answer in what was written
        # rule or reader that found it (answers.find_answer, sampling.readers); cut_off, unclosed, none: nothing;
        # control_in_text, overlong: not asked; refused: by a server
        ("read_by", pa.string()),
        ("correct", pa.bool_()),
        ("verdict", pa.string()),  # right, wrong, cannot_tell, timeout; "" where there is no answer
        ("verified_by", pa.string()),  # the verifier
        ("answer_as_read", pa.string()),  # by the verifier, as is the gold answer
        ("gold_as_read", pa.string()),
        ("detail", pa.string()),  # why, where that does not show
        ("tokens", pa.int32()),  # written by the student
        ("trace_tokens", pa.int32()),
        ("finished", pa.bool_()),  # false: cut off at max_new_tokens
        ("repeats", pa.string()),  # what it says again and again (selection.repetition); "": nothing
        ("in_form", pa.bool_()),  # the trace was closed, as the layout of documents has it, and the student ended
        # of each token that the student wrote: where it ends in text, in characters (null: text is not what the tokens
        # are), and its log p under the student, nats; null where nothing is known of tokens, as of a served student
        ("ends", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float32())),
    ]
)


def not_asked(question: Mapping[str, Any], why: Unasked) -> dict[str, Any]:
    """A row of PREDICTION_SCHEMA for a question that was left out."""
    return {
        **{key: question[key] for key in ("question_id", "question", "gold")},
        **{"text": "", "trace": "", "answer": None, "read_by": why.reason, **NO_VERDICT, "detail": why.detail},
        **{"tokens": 0, "trace_tokens": 0, "finished": True, "repeats": "", "in_form": False},
    }


def answer_in(found: Reading, numeric: bool, chain: Chain) -> Found:
    """The answer in what a student wrote, as its layout reads that.

    What stands behind the mark of the layout's form is the answer. A model that writes no mark, as one that was not
    trained on the form, is read as the recipe's teachers are: by ``chain``, its readers.

    What was cut off has no answer and is never correct, even if the right answer stands at its end; nor has a trace
    that was opened and never closed.
    """
    if found.answer is None:
        return Found(None, "unclosed" if found.finished else "cut_off")
    if found.in_form or number(found.answer) is not None:
        return find_answer(found.answer, numeric=numeric)
    read, rule = chain.answer_of(found.answer, numeric)
    return Found(None, "none") if read is None else Found(read.answer, rule)


def verified(
    rows: Sequence[dict[str, Any]], questions: Sequence[Mapping[str, Any]], verifier: Verifier
) -> list[dict[str, Any]]:
    """The same rows with what the verifier says of each answer, all of them together. No answer is right, whatever
    stands in it, where none was found: a thought that did not end has none."""
    said = [at for at, row in enumerate(rows) if row["answer"] is not None]
    how = [how_of(questions[at].get("metadata") or "", verifier.config.use) for at in said]
    cases = [
        Case(rows[at]["answer"], rows[at]["gold"], rows[at]["question"], by) for at, by in zip(said, how, strict=True)
    ]
    found = dict(zip(said, verifier.verdicts(cases), strict=True))
    return [{**row, **told(found[at])} if at in found else row for at, row in enumerate(rows)]


def told(verdict: Verdict) -> dict[str, Any]:
    return {
        **{"correct": verdict.right, "verdict": verdict.outcome, "verified_by": verdict.by},
        **{"answer_as_read": verdict.answer, "gold_as_read": verdict.gold, "detail": verdict.detail},
    }


def summary(predictions: Sequence[Mapping[str, Any]], seed: int = 0) -> dict[str, Any]:
    """What came of at least one question: how many were answered, how many right, the shares with their 95 % intervals
    (``_low`` and ``_high`` are Wilson's; ``bootstrap``: by drawing questions again), and the mean length of the traces.

    Questions that were not asked count as wrong, and in no mean; which ones they are depends on the tokenizer. Without
    a gold answer by which somebody could tell (``without_gold``) a question has no part in any share; if all are so,
    nothing is right.
    """
    judged = judged_of(predictions)
    right = np.array([row["correct"] for row in judged], np.float64)
    said = np.array([row["answer"] is not None for row in judged], np.float64)
    verdicts = Counter(row["verdict"] for row in judged if row["verdict"] in UNDECIDED)
    asked = [row for row in predictions if was_asked(row)]
    shares = {
        "accuracy": (right, np.ones(len(judged))),
        "answered_share": (said, np.ones(len(judged))),
        "right_when_answered": (right, said),
    }
    found: dict[str, Any] = {"bootstrap": {}}
    for name, (sums, counts) in shares.items():
        of = share(float(sums.sum()), int(counts.sum()))
        found |= {name: of["share"], f"{name}_low": of["low"], f"{name}_high": of["high"]}
        found["bootstrap"][name] = bootstrap(sums, counts, seed) if counts.any() else None
    return {
        **found,
        "questions": len(predictions),
        "without_gold": count_of([[row] for row in predictions]).count(False),
        "answered": int(said.sum()),
        "right": int(right.sum()),
        "undecided": dict(sorted(verdicts.items())),
        "not_asked": len(predictions) - len(asked),
        "trace_tokens_mean": sum(row["trace_tokens"] for row in asked) / max(len(asked), 1),
        "truncated": sum(not row["finished"] for row in predictions),
        "loops": sum(bool(row["repeats"]) for row in predictions),
        "loops_truncated": sum(bool(row["repeats"]) and not row["finished"] for row in predictions),
        "in_form": sum(row["in_form"] for row in predictions),
        "read_by": dict(sorted(Counter(row["read_by"] for row in predictions).items())),
    }


def judged_of(predictions: Sequence[Row]) -> Sequence[Row]:
    """Those that have a part in shares (``votes.count_of``), or all if none has."""
    known = count_of([[row] for row in predictions])
    return [row for row, is_so in zip(predictions, known, strict=True) if is_so] or predictions
