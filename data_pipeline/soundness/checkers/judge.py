"""A teacher as a checker (``judge``): asked which step is the first wrong one. Off unless a recipe names it.

    select:
      checks: [equations, {use: judge, options: {use: api, options: {model: big}}}]

It is asked once for each record that nothing else rejects, at temperature 0. ``select`` keeps what it says, so that
selecting anew asks only what is new.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.asking.kept import Kept, refuse_without_price
from tracestill.data_pipeline.sampling.teachers import make_teacher
from tracestill.data_pipeline.soundness.checkers.finding import Check, Finding, Trace

BY = "judge"
PROMPT = """A question, and a solution in numbered steps. Read it step by step. A step is wrong if something in it is
false, or does not follow from the question and the steps before it.

Question: {question}

{steps}

Say in one line, at the end: "First wrong step: N", or "First wrong step: none" if every step is right."""
VERDICT = re.compile(r"first wrong step\W{0,10}(none|\d{1,4})", re.I)


class JudgeOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field(description="the teacher that judges: a task module, as sample.teachers.use")
    options: dict[str, Any] = Field({}, description="the teacher's own options")
    attempts: int = Field(3, ge=1, description="times that it is asked for one trace")
    budget: float | None = Field(
        None,
        gt=0,
        description="money that it may cost, in the unit of its price, over all runs; traces that it does not pay for "
        "cannot be told and stay, counted as unjudged; null: no bound",
    )


def make(options: JudgeOptions, field: str) -> Check:
    """A checker that asks the teacher for one trace after the other."""
    kept = keeping(options, field, None)

    def judge(trace: Trace) -> Iterator[Finding]:
        if trace.steps:
            kept.ask([prompt(trace)])
            yield finding(trace, kept)

    return judge


def keeping(options: JudgeOptions, field: str, path: Path | None) -> Kept:
    """The teacher; ``path``: the file of what it says."""
    teacher, _ = make_teacher(options.use, options.options, f"{field}.options.use")
    refuse_without_price(teacher, options.budget, "a budget", f"{field}.options.options.price")
    identity = [options.use, options.options]
    return Kept(teacher, BY, path, identity, budget=options.budget, attempts=options.attempts)


def finding(trace: Trace, kept: Kept) -> Finding:
    """What it said of a trace that it was asked about. Raises InputError if it failed for good: an unread trace must
    not pass for a right one."""
    text = prompt(trace)
    said, whole = kept.said(text), (0, len(trace.text))
    if said is None and kept.id_of(text) in kept.unpaid:
        return Finding(*whole, "cannot_tell", f"not judged: the budget of {kept.budget} does not pay for it")
    if said is None:
        why = kept.failed.get(kept.id_of(text), "")
        raise InputError(f"select.checks: the judge does not answer ({why}); what it has said is kept")
    verdicts = VERDICT.findall(said)
    step = verdicts[-1].lower() if verdicts else ""
    if step == "none":
        return Finding(*whole, "holds")
    if step and 1 <= int(step) <= len(trace.steps):
        at = int(step) - 1
        return Finding(trace.starts[at], trace.ends[at], "false", " ".join(trace.steps[at].split())[:200])
    return Finding(*whole, "cannot_tell", "the judge names no step")


def prompt(trace: Trace) -> str:
    steps = "\n".join(f"Step {at}: {step.strip()}" for at, step in enumerate(trace.steps, 1))
    return PROMPT.format(question=trace.question, steps=steps)
