"""Is what the checkers call a wrong step one, and do they find the wrong ones?

    python benchmarks/soundness.py --data DIR --json benchmarks/results/soundness.json
    python benchmarks/soundness.py --data DIR --list            # what is flagged against the labels, to be read

- MR-GSM8K: 450 wrong traces, labelled by hand (`labels/slips.tsv`) as slips, a computation that is false as it is
  written (in numbers, or with letters), or errors of reasoning; half apart while the rules were written. All traces of
  this set are wrong, so the right ones are its questions' own solutions, and the steps before the first wrong one.
- BIG-Bench-Mistake: four tasks, each with the checkers that a recipe would name for it.
- gsm_symbolic: the false equations of reasoning-gym's own solutions, found by exact arithmetic on `a op b = c`.
- All right-answer traces of five open models, and GSM8K's human solutions: what the default checks flag there.
- The checkers that are not on by default, on the same; wrong copies planted for `values`; a learned one
  (`soundness_learned.py`).

A trace that is flagged, but right by its label, counts as wrongly flagged unless it was read and is truly false
(`labels/soundness_read.tsv`); both precisions are told. DIR holds `gsm8k`, `gsm8k_teachers` and `mistakes`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import claim, finish, table
from soundness_data import BBM, READ, Known, bbm, gsm_symbolic, human, mr_gsm8k, planted, table_of, teachers
from soundness_learned import learned

from tracestill.data_pipeline.soundness.checkers.chain import BUILT_IN, DEFAULT, EQUATIONS, Checks
from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

OF_TASK = {
    "multistep_arithmetic": (*DEFAULT,),
    "word_sorting": ("sorting",),
    "dyck_languages": ("brackets",),
    "logical_deduction": ("orders",),
}
OPTIONAL = ("values", "conclusion", "units")
SPEED_TRACES = 2000
PLANTED = 600


def first(checks: Checks, trace: Trace) -> Finding | None:
    """The false finding of the earliest step."""
    false = [one for one in checks.findings(trace) if one.outcome == "false"]
    return min(false, key=lambda one: (one.step, one.start), default=None)


class Tally:
    """Flagged and not, by what the labels say and by what was read."""

    def __init__(self, listing: bool) -> None:
        self.read = {(row["source"], row["sha256"], row["checker"]): row["verdict"] for row in table_of(READ)}
        self.counts: dict[str, Counter[str]] = {}
        self.listing = listing

    def add(self, group: str, known: Known, found: Finding | None) -> None:
        counts = self.counts.setdefault(group, Counter())
        wrong = known.wrong is not None
        counts["wrong" if wrong else "right"] += 1
        if found is None:
            return
        counts["flagged"] += 1
        counts["flagged wrong" if wrong else "flagged right"] += 1
        where = ""
        if known.wrong is not None:
            where = "exact" if found.step == known.wrong else "early" if found.step < known.wrong else "late"
            counts[where] += 1
        if not wrong or where == "early":
            verdict = self.read.get((known.source, known.digest, found.checker), "not read")
            counts[f"{'early' if wrong else 'right'}: {verdict}"] += 1
            if self.listing:
                self.show(known, found, where, verdict)

    def show(self, known: Known, found: Finding, where: str, verdict: str) -> None:
        text = known.trace.text[max(0, found.start - 160) : found.end + 60]
        print(f"\n{known.source}\t{known.row}\t{known.digest}\t{found.checker}\t{verdict}\t{where}")
        print(f"  {found.detail}\n  {text!r}")

    def figures(self, group: str) -> dict[str, Any]:
        """``precision``: of traces flagged, those that are wrong by their label; ``precision_read``: those that are
        wrong, or right by label and truly false as read. ``step_precision``: of the wrong ones, those not flagged in a
        step before the first wrong one, or truly false there as read."""
        c = self.counts[group]
        flagged, false = c["flagged"], c["right: false"]
        return {
            **dict(sorted(c.items())),
            "precision": c["flagged wrong"] / flagged if flagged else None,
            "precision_read": (c["flagged wrong"] + false) / flagged if flagged else None,
            "step_precision": 1 - (c["early"] - c["early: false"]) / c["flagged wrong"] if c["flagged wrong"] else None,
            "recall": c["flagged wrong"] / c["wrong"] if c["wrong"] else None,
            "exact": c["exact"] / c["wrong"] if c["wrong"] else None,
        }


def mistakes(data: Path, tally: Tally) -> None:
    """MR-GSM8K by label and half, and BIG-Bench-Mistake."""
    default = Checks(DEFAULT, "checks")
    wrong, right = mr_gsm8k(data)
    for known in wrong:
        half, sort, place = known.label.split("/")
        found = first(default, known.trace)
        for group in {f"MR-GSM8K, {sort}", f"MR-GSM8K, {sort}, {half}", f"MR-GSM8K, {sort} in {place}"} - {
            "MR-GSM8K, logical in -"
        }:
            tally.add(group, known, found)
        tally.add("MR-GSM8K", known, found)
    for known in right:
        tally.add("MR-GSM8K", known, first(default, known.trace))
    for task in BBM:
        checks = Checks(OF_TASK[task], "checks")
        for known in bbm(data, task):
            tally.add(task, known, first(checks, known.trace))


def right_answers(data: Path, tally: Tally) -> dict[str, Any]:
    """Right-answer traces of teachers and human solutions, by each checker alone."""
    alone = {name: Checks((name,), "checks") for name in (*DEFAULT, *OPTIONAL)}
    answered = Counter[str]()
    for known, right in teachers(data):
        answered["right" if right else "wrong"] += 1
        for name, checks in alone.items():
            found = first(checks, known.trace)
            if right:
                tally.add(f"teachers, right answers: {name}", known, found)
            elif found is not None:
                answered[f"wrong answers flagged by {name}"] += 1
    for known in human(data):
        for name, checks in alone.items():
            tally.add(f"human solutions: {name}", known, first(checks, known.trace))
    return dict(answered)


def symbolic() -> dict[str, Any]:
    checks, counts = Checks(DEFAULT, "checks"), Counter[str]()
    for trace, false in gsm_symbolic(3000):
        flagged = checks.first_false(trace) is not None
        counts[f"{'false' if false else 'true'}, {'flagged' if flagged else 'not flagged'}"] += 1
    false = counts["false, flagged"] + counts["false, not flagged"]
    return {**counts, "recall": counts["false, flagged"] / false}  # "true, flagged": false in another form, 15÷2/5=37


def copies(data: Path) -> dict[str, Any]:
    """Wrong copies planted into human solutions: how many ``values`` finds, and how many it flags without."""
    found = Counter[str]()
    for right, wrong in planted(human(data), PLANTED):
        for name, trace in (("right", right), ("planted", wrong)):
            outcomes = {one.outcome for one in BUILT_IN["values"](trace)}
            found[name] += 1
            found[f"{name}, false"] += "false" in outcomes
            found[f"{name}, cannot tell"] += "cannot_tell" in outcomes and "false" not in outcomes
    return dict(found)


def speed(traces: Sequence[Trace]) -> dict[str, float]:
    """CPU milliseconds a trace of each checker, the fastest of three rounds; what equations are read for is apart."""
    best: dict[str, float] = {}
    for _ in range(3):
        for name in (EQUATIONS, *(name for name in BUILT_IN if name != EQUATIONS)):
            fresh = [Trace(trace.text, trace.question, trace.answer, trace.gold) for trace in traces]
            if name != EQUATIONS:
                for trace in fresh:
                    trace.equations  # noqa: B018
            start = time.process_time()
            for trace in fresh:
                for _finding in BUILT_IN[name](trace):
                    pass
            taken = 1000 * (time.process_time() - start) / len(fresh)
            best[name] = min(best.get(name, taken), taken)
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of published traces")
    parser.add_argument("--list", action="store_true", help="show what is flagged against its label")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    tally = Tally(wanted.list)
    mistakes(wanted.data, tally)
    answered = right_answers(wanted.data, tally)
    groups = {name: tally.figures(name) for name in tally.counts}
    cells = [
        [name, c.get("wrong", 0), c.get("right", 0), c.get("flagged", 0),
         *(f"{c[key]:.3f}" if c[key] is not None else "-"
           for key in ("precision", "precision_read", "step_precision", "recall", "exact"))]
        for name, c in groups.items()
    ]  # fmt: skip
    header = ["traces", "wrong", "right", "flagged", "precision", "as read", "by step", "recall", "exact"]
    print(table(header, cells))
    timed = speed([known.trace for known in human(wanted.data)[:SPEED_TRACES]])
    figures = {
        "groups": groups,
        "teachers": answered,
        "gsm_symbolic": symbolic(),
        "planted copies": copies(wanted.data),
        "learned": learned(mr_gsm8k(wanted.data)[0], [known for known, right in teachers(wanted.data) if right][::5]),
        "cpu_ms_a_trace": timed,
    }
    for name in list(figures)[1:]:
        print(f"{name}: {figures[name]}")
    beyond = sum(timed[name] for name in DEFAULT if name != EQUATIONS)
    slips = groups["MR-GSM8K, slip"]
    claims = [
        claim("wrong traces labelled by hand", groups["MR-GSM8K"]["wrong"], ">=", 200),
        claim("MR-GSM8K: precision, as read", groups["MR-GSM8K"]["precision_read"], ">=", 0.95),
        claim("MR-GSM8K: precision by step, as read", groups["MR-GSM8K"]["step_precision"], ">=", 0.95),
        claim("MR-GSM8K, slips: recall", slips["recall"], ">=", 0.9),
        claim("MR-GSM8K, slips apart: recall", groups["MR-GSM8K, slip, held"]["recall"], ">=", 0.9),
        *(claim(f"{task}: precision, as read", groups[task]["precision_read"], ">=", 0.95) for task in BBM),
        *(claim(f"{task}: precision by step, as read", groups[task]["step_precision"], ">=", 0.95) for task in BBM),
        claim("gsm_symbolic: recall of false equations", figures["gsm_symbolic"]["recall"], ">=", 0.9),
        *(claim(f"{name}: truly false, of those flagged",
                groups[f"teachers, right answers: {name}"]["precision_read"] or 1.0, ">=", 0.95) for name in DEFAULT),
        claim("CPU ms a trace, default checks beyond the equations", beyond, "<", 1.0),
    ]  # fmt: skip
    return finish(figures, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
