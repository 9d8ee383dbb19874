"""The stage `select`: which records are worth imitating, and why each of the others is not.

It reads the records twice, some at a time: to judge each and choose among those of a question, and to write them. In
between, numbers are held, no texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.answers.verifier import Verifier, VerifyConfig, verify_config
from tracestill.data_pipeline.base.batches import Rows, Writer
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, REJECTED_SCHEMA, weight_fault
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.selection import record_weights
from tracestill.data_pipeline.selection.choosing import Choice, by_question, choose
from tracestill.data_pipeline.selection.config import CHECKS, SelectConfig
from tracestill.data_pipeline.selection.judgements import Judgements, judge_all
from tracestill.data_pipeline.selection.judging import CODE
from tracestill.data_pipeline.selection.policy import REASONS, REMEDIES, REPETITION
from tracestill.data_pipeline.selection.step_judge import StepJudges
from tracestill.data_pipeline.selection.verified import named_verifiers
from tracestill.data_pipeline.soundness.checkers import chain

Progress = Callable[[int, int], None]

AT_ONCE = 1024  # records in memory while they are written
OF_RECORD = ("record_id", "question_id", "teacher", "style", "temperature")
STEPS = ("read", "answered", "right", "sound", "distinct", "kept")
VERDICT_SCHEMA = pa.schema(  # of every record that was read, in the order of sample/records.parquet
    [
        *(RECORD_SCHEMA.field(name) for name in OF_RECORD),
        *((step, pa.bool_()) for step in STEPS),  # distinct: accepted, and no other record stands for its path
        ("reason", pa.string()),  # why it is not kept; empty: it is
    ]
)


class NothingLeft(InputError):
    """No record survives."""


def stage_config(
    select: SelectConfig, memory: Path | None = None, verify: VerifyConfig = VerifyConfig()
) -> dict[str, Any]:
    """What identifies a run of this stage; ``stage.is_current`` takes it with the input ``sample``. ``memory`` is as
    in ``content.digests``."""
    own = {record_weights.FIELD: record_weights.own_files(select.weight), CHECKS: chain.own_files(select.checks)}
    found = contents(own, memory)
    return {
        **select.model_dump(mode="json", exclude_defaults=True, exclude={"workers"}),
        **({CONTENTS: found} if found else {}),
        **verify_config(verify, memory),
    }


def run(
    select: SelectConfig,
    *,
    directory: Path,
    sample: Path,
    progress: Progress = lambda done, total: None,
    memory: Path | None = None,
    verifier: Verifier = Verifier(),
) -> None:
    """Read ``sample``/records.parquet; write records.parquet, rejected.parquet (with reason and detail) and
    verdicts.parquet (VERDICT_SCHEMA), all in the order of the records.

    Calls ``progress(done, total)`` with records. The manifest counts, besides what came in, stayed and was rejected by
    reason, how many each policy would keep, as ``policies``; and, if there are any, those kept that weigh nothing as
    ``weightless``, what was found and does not reject as ``noted``, and what the budget of a judge did not pay for as
    ``unjudged``. What judges of steps say is kept beside ``directory``.

    The reasons are those of ``policy.REASONS``, in the order of ``judging.faults_of``; the first one that rejects is
    the verdict. Raises NothingLeft, with counts by reason, if no record survives.
    """
    with stage(directory, "select", stage_config(select, memory, verifier.config), {"sample": sample}) as work:
        rows = Rows(sample / "records.parquet", RECORD_SCHEMA)
        steps = StepJudges(select, directory.parent)
        named = named_verifiers(sample / "questions.parquet")
        found = judge_all(select, rows, work.path, progress, verifier, named, steps)
        choice = choose(select, found)
        weights, bad = weighed(select, rows, found, choice)
        write(work.path, rows, found, choice, weights, bad)
        kept = choice.reasons == 0
        names = ("", *REASONS)
        rejected = {names[code]: int(n) for code, n in enumerate(np.bincount(choice.reasons)) if code and n}
        if not kept.any():
            raise NothingLeft(nothing_left(sample, len(rows), Counter(rejected)))
        noted = {reason: int(found.have(reason, kept).sum()) for reason in REPETITION}
        weightless = int((weights[kept] == 0).sum())
        unpaid = len(verifier.judge.kept.unpaid) if verifier.judge is not None else 0
        unjudged = {"answers": unpaid, "traces": steps.unjudged}
        work.counts = {
            "in": len(rows),
            "out": int(kept.sum()),
            **({"weightless": weightless} if weightless else {}),
            "rejected": dict(sorted(rejected.items())),
            **({"noted": noted} if (noted := {reason: n for reason, n in noted.items() if n}) else {}),
            **({"unjudged": unjudged} if any(unjudged.values()) else {}),
            "policies": choice.kept,
            "questions_in": len(np.unique(found.questions)),
            "questions_out": len(np.unique(found.questions[kept])),
        }


def weighed(
    select: SelectConfig, rows: Rows, found: Judgements, choice: Choice
) -> tuple[np.ndarray, Mapping[int, str]]:
    """(n,) float64 weights of records, and what is wrong with that of each one that this rejects, by number."""
    weights, bad = found.weights.astype(np.float64), dict[int, str]()
    if select.weight != "given":
        for place, weight in record_weights.weigh(
            select.weight, by_question(found.questions, choice.reasons == 0), rows
        ):
            if wrong := weight_fault(weight):
                choice.reasons[place] = CODE["bad_weight"]
                bad[place] = f"its weight by {record_weights.FIELD}: {wrong}"
            else:
                weights[place] = float(weight)
    return weights, bad


def write(
    folder: Path, rows: Rows, found: Judgements, choice: Choice, weights: np.ndarray, bad: Mapping[int, str]
) -> None:
    """Write the three files; every record goes into one of the first two."""
    names = pa.array(["", *REASONS])
    start = 0
    with (
        Writer(folder / "records.parquet", RECORD_SCHEMA) as kept,
        Writer(folder / "rejected.parquet", REJECTED_SCHEMA) as rejected,
        Writer(folder / "verdicts.parquet", VERDICT_SCHEMA) as verdicts,
    ):
        for table in rows.batches(AT_ONCE):
            here = slice(start, start + len(table))
            stays = choice.reasons[here] == 0
            reasons = names.take(pa.array(choice.reasons[here]))
            weighed = table.set_column(
                table.column_names.index("weight"), "weight", pa.array(weights[here].astype(np.float32))
            )
            kept.add(weighed.filter(stays))
            details = [detail(int(place), found, choice, bad) for place in start + np.flatnonzero(~stays)]
            gone = table.filter(~stays).append_column("reason", reasons.filter(~stays))
            rejected.add(gone.append_column("detail", pa.array(details, pa.string())))
            true = {
                **{"read": np.ones(len(table), bool), "distinct": choice.distinct[here], "kept": stays},
                **{flag: found.have(flag, here) for flag in ("answered", "right", "sound")},
            }
            verdict = table.select(OF_RECORD)
            for step in STEPS:
                verdict = verdict.append_column(step, pa.array(true[step]))
            verdicts.add(verdict.append_column("reason", reasons))
            start = here.stop
    if start != len(found):
        raise AssertionError(f"selection lost records: {len(found)} judged, {start} written")


def detail(place: int, found: Judgements, choice: Choice, bad: Mapping[int, str]) -> str:
    """Why a record is not kept, in words."""
    if place in bad:
        return bad[place]
    if found.reasons[place]:
        return str(found.details[place])
    if (other := int(choice.others[place])) >= 0:
        return f"the path of record {found.ids[other]}"
    return f"enough records of this question{' and teacher' * bool(choice.of_teacher[place])} are kept"


def nothing_left(sample: Path, total: int, reasons: Counter[str]) -> str:
    counts = ", ".join(f"{name} {count}" for name, count in reasons.most_common()) or "there were none to select from"
    remedy = REMEDIES.get(reasons.most_common(1)[0][0], "") if reasons else "sample some first"
    return f"{sample / 'records.parquet'}: no record of {total} survives selection ({counts}); {remedy}"
