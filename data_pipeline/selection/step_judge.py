"""The judge of steps (``judge`` among ``select.checks``), asked in one process about many traces at a time.

Worker processes check what costs nothing; a teacher is asked here, about records that nothing else rejects, so that one
file keeps what it said, and one ledger what it cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.selection.config import CHECKS, SelectConfig
from tracestill.data_pipeline.selection.judging import BIT, CODE, Batch
from tracestill.data_pipeline.soundness.checkers import judge
from tracestill.data_pipeline.soundness.checkers.chain import FALSE_STEP, configured
from tracestill.data_pipeline.soundness.checkers.finding import Trace

KEPT = "judge_steps.jsonl"  # in a run: what the judges of steps have said


class StepJudges:
    """Those that a recipe names, asked one after the other."""

    def __init__(self, select: SelectConfig, folder: Path) -> None:
        """``folder``: where their file is kept. Only where soundness decides is anybody asked."""
        checks = enumerate(map(configured, select.checks)) if select.policy == "strict" else ()
        self.judges = [
            judge.keeping(
                check_options(judge.JudgeOptions, check.options, f"{CHECKS}.{at}.options"),
                f"{CHECKS}.{at}",
                folder / KEPT,
            )
            for at, check in checks
            if check.use == judge.BY
        ]
        self.unjudged = 0  # records that stay and that a budget did not pay for

    def judged(self, batch: Batch, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch, with what the judges find false in those of its records that all else lets pass."""
        flags, reasons, details = batch.flags.copy(), batch.reasons.copy(), list(batch.details)
        for kept in self.judges:
            places = [at for at in np.flatnonzero(flags & BIT["strict"]).tolist() if rows[at]["trace"].strip()]
            traces = [
                Trace(row["trace"], row["question"], row["answer"], row["gold"])
                for row in map(rows.__getitem__, places)
            ]
            kept.ask([judge.prompt(trace) for trace in traces])
            for at, trace in zip(places, traces, strict=True):
                found = judge.finding(trace, kept)
                self.unjudged += kept.said(judge.prompt(trace)) is None
                if found.outcome == "false":
                    flags[at] &= np.uint16(0xFFFF ^ (BIT["strict"] | BIT["sound"]))
                    reasons[at] = CODE[FALSE_STEP]
                    details[at] = f"{judge.BY}, step {trace.step_at(found.start) + 1}: {found.detail}"
        return batch._replace(flags=flags, reasons=reasons, details=details)
