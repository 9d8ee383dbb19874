"""A teacher as a checker (``judge``): asked which step is the first wrong one. Off unless a recipe names it.

    select:
      checks: [equations, {use: judge, options: {use: api, options: {model: big}}}]

It is asked once for each record that the checkers before it let pass, at temperature 0, and nothing of it is journaled:
selecting anew asks anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.teachers import Ask, Failed, Said, make_teacher
from tracestill.data_pipeline.soundness.checkers.finding import Check, Finding, Trace

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


def make(options: JudgeOptions, field: str) -> Check:
    """A checker that asks the teacher."""
    teacher, _ = make_teacher(options.use, options.options, f"{field}.options.use")

    def judge(trace: Trace) -> Iterator[Finding]:
        if not trace.steps:
            return
        said = asked(teacher, prompt(trace), options.attempts)
        verdicts = VERDICT.findall(said)
        step = verdicts[-1].lower() if verdicts else ""
        if step == "none":
            yield Finding(0, len(trace.text), "holds")
        elif step and 1 <= int(step) <= len(trace.steps):
            at = int(step) - 1
            yield Finding(trace.starts[at], trace.ends[at], "false", " ".join(trace.steps[at].split())[:200])
        else:
            yield Finding(0, len(trace.text), "cannot_tell", "the judge names no step")

    return judge


def prompt(trace: Trace) -> str:
    steps = "\n".join(f"Step {at}: {step.strip()}" for at, step in enumerate(trace.steps, 1))
    return PROMPT.format(question=trace.question, steps=steps)


def asked(teacher: Any, text: str, attempts: int) -> str:
    """What a teacher says. Raises InputError if it fails for good: an unread trace must not pass for a right one."""
    from tracestill.data_pipeline.sampling.asking.desk import Desk
    from tracestill.data_pipeline.sampling.asking.money import Ledger

    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    question = Question(content_id(text), text, "", "train")
    ask = Ask(digest[:16], question, "", 0.0, 0, int(digest[:15], 16), as_is=True)
    said: Any = Failed("failed", "")
    for _ in range(attempts):
        try:
            if hasattr(teacher, "answer"):  # one that answers many at a time finds one on its desk
                inbox: SimpleQueue[Any] = SimpleQueue()
                desk = Desk("judge", attempts, Ledger(), {}, inbox)
                desk.put(ask)
                desk.close()
                teacher.answer(desk)
                said = next((item.said for item in iter(inbox.get_nowait, None) if hasattr(item, "said")), said)
            else:
                said = teacher.solve(question, style="", temperature=0.0, seed=ask.seed)
        except InputError:
            raise
        except Exception as error:  # a teacher may be anybody's code or a remote service
            said = Failed("failed", f"{type(error).__name__}: {error}")
        if not isinstance(said, Failed):
            return "\n".join([said.reasoning, said.raw]) if isinstance(said, Said) else f"{said.trace}\n{said.answer}"
    raise InputError(f"select.checks: the judge does not answer ({said.detail})")
