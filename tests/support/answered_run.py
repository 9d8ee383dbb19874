"""A run whose students have answered its held-out questions, without a model: predictions made up."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fake_run import HOSTILE, claim, mini_recipe, run_data_stages

from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, read_rows, write_rows
from tracestill.data_pipeline.base.stage import stage
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.evaluation.predictions import NO_VERDICT, PREDICTION_SCHEMA, not_asked, summary
from tracestill.trainer.measures.unasked import REFUSED, Unasked
from tracestill.trainer.recipe.run_directory import RunDirectory

FALSE = "2 + 2 = 5"


def answered(question: Mapping[str, Any], at: int) -> dict[str, Any]:
    """A prediction of each sort, in turn: right, wrong, cut off, undecided, not asked."""
    if at % 5 == 4:
        return not_asked(question, Unasked(REFUSED))
    verdict = {0: "right", 1: "wrong", 3: "cannot_tell"}.get(at % 5, "")
    trace = f"2 + 3 = 5, and {FALSE if at % 2 else '1 + 1 = 2'}. {HOSTILE}"
    own = {"trace": trace, "text": f"<think> {trace}</think> {at}", "answer": str(at) if verdict else None}
    how = {**NO_VERDICT, "correct": verdict == "right", "verdict": verdict, "verified_by": "number" if verdict else ""}
    known = {
        "read_by": "whole" if verdict else "cut_off",
        "tokens": 10 + at,
        "trace_tokens": 9,
        "finished": bool(verdict),
    }
    ends = [*range(3, len(own["text"]), 3), len(own["text"])]
    ends.insert(4, ends[3])  # a token that only completes a character
    by_token = {"ends": ends, "logprobs": [-((7 * i + at) % 40) / 16 for i in range(len(ends))]}
    return {
        **by_token,
        **{key: question[key] for key in ("question_id", "question", "gold")},
        **{**own, **how, **known, "repeats": "", "in_form": bool(verdict)},
    }


def write_predictions(run: RunDirectory, arm: str, rows: Sequence[dict[str, Any]]) -> None:
    """An evaluation, as current as if it had run."""
    work = next(work for work in plan_works(run) if work.stage == "evaluate" and work.arm == arm)
    with stage(work.directory, "evaluate", work.config, work.inputs) as writing:
        write_rows(writing.path / "predictions.parquet", rows, PREDICTION_SCHEMA)
        result = {**summary(rows), "seconds": 1.0, "documents": 0, "kinds": {}}
        (writing.path / "result.json").write_text(json.dumps(result))


def answered_run(root: Path, **more: Any) -> RunDirectory:
    """A run whose students answered: one all of 11 questions, one the last nine. ``more`` of the recipe."""
    arms = {"before": {"train": "none"}, "after": {"train": "none", "evaluate": {"temperature": 0.5}}}
    questions = {"source": "digit_sum", "train": 12, "test": 11, "options": {"digits": 3}}
    made = claim(root, mini_recipe(questions=questions, arms=arms, **more))
    run_data_stages(made)
    held = [row for row in read_rows(root / "sample/questions.parquet", QUESTION_SCHEMA) if row["split"] == "test"]
    write_predictions(made, "before", [answered(row, at) for at, row in enumerate(held)])
    write_predictions(made, "after", [answered(row, at + 1) for at, row in enumerate(held)][2:])
    return made
