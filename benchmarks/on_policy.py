"""A student that goes on from texts of its own, against one that goes on from the recorded traces: the demo, by seed.

    python benchmarks/on_policy.py --teacher DIR [--seeds 0 1 2] [--runs DIR] [--json PATH] [--quick]

`recipes/demo_on_policy.yaml` on one rank: for each seed a student learns recorded traces for some steps; from there
arms go on, all at the same rate but for the `slow` ones:

- `own`: with its own texts, scored by the teacher (reverse KL by kind)
- `none`: with its own texts, without a teacher: each token of a right text is raised, of a wrong one lowered
- `raised`: likewise, but tokens of wrong texts are left as they are
- `traces`: with the traces, for as many steps
- `equal`: with the traces, for as many tokens with a weight as `own`, in steps as large as those of `traces`
- `own_slow`, `none_slow`, `raised_slow`, `traces_slow`: as those, at a tenth of the rate

``--teacher`` is a student of recipes/demo.yaml (`runs/demo/arms/traces/train/export`).

Measured are right answers to held-out questions, before and after; the difference of two is taken question by question,
and its interval (95 %) is the wider of Student's t over seeds and the spread between questions. The claims hold the
comparisons alone: as many steps, and as many tokens. With `--runs DIR` a second start goes on where the first was cut
off.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from claims_table import Results, between, own_texts, points, told
from demo import RECIPE as DEMO
from demo import run
from machine import claim, describe, finish, table

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.guards import strict_yaml
from tracestill.launch.report.report import gather_training
from tracestill.launch.sweep.outcome import answers_in
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPE = DEMO.with_name("demo_on_policy.yaml")
OWN, NONE, RAISED, EQUAL, SLOW = "own", "none", "raised", "equal", "slow"
TEXTS = "spent", "ended"  # shares of time, and why it ended early
RATES = "", f"_{SLOW}"
SMALL = ["rounds=null", "train.ranks=1", "train.checkpoint_every=0", "train.checkpoint_interval=null"]
SMALL += ["evaluate.samples=null", "evaluate.variations=null", "evaluate.also={}"]
QUICK = ["questions.train=80", "questions.validation=20", "questions.test=20", "evaluate.batch_size=20"]


def measure(wanted: argparse.Namespace, place: Path, seed: int) -> dict[str, Any]:
    """What the students of a seed answered, a character a question in the order of ids; and the arms' steps."""
    asked = strict_yaml.read_file(RECIPE)["rounds"]
    own = {**asked["on_policy"], "teacher": str(wanted.teacher)}
    then = asked["changes"]["train"]
    common = [f"seed={seed}", *SMALL, f"encode.tokenizer.path={wanted.teacher}"]
    if wanted.quick:
        common += QUICK
        then = {**then, "steps": 8, "warmup": 1}
    run(RECIPE, place / "before", [*common, *(["train.steps=20", "train.warmup=2"] if wanted.quick else [])])
    before = RunDirectory.open(place / "before")
    student = {"pretrained": str((before.stage(MAIN_ARM, "train") / "export").resolve())}
    more = [f"train.{key}={value}" for key, value in {**then, "checkpoint_every": 0}.items()]
    alone = {key: value for key, value in own.items() if key != "k"} | {"teacher": "none"}
    how = {OWN: own, NONE: alone, RAISED: {**alone, "advantage": {"wrong": 0}}}
    arms = {name: {"train": {"on_policy": each}} for name, each in how.items()}
    begun = [*common, *more, f"student={json.dumps(student)}"]
    run(RECIPE, place / "after", [*begun, f"arms={json.dumps(arms)}"])
    after = RunDirectory.open(place / "after")
    steps = then["steps"] * trained(after, OWN)["weighted_tokens"] / trained(after, MAIN_ARM)["weighted_tokens"]
    run(RECIPE, place / EQUAL, [*begun, f"train.steps={max(1, round(steps))}"])
    run(RECIPE, place / SLOW, [*begun, f"train.lr={then['lr'] / 10}", f"arms={json.dumps(arms)}"])
    slowly = RunDirectory.open(place / SLOW)
    students = {"before": (before, MAIN_ARM), "traces": (after, MAIN_ARM), **{name: (after, name) for name in arms}}
    students |= {f"{name}_{SLOW}": (slowly, name) for name in (MAIN_ARM, *arms)}
    students[EQUAL] = RunDirectory.open(place / EQUAL), MAIN_ARM
    right = {name: answers_in(of.stage(arm, "evaluate")) for name, (of, arm) in students.items()}
    counts = {name: trained(of, arm) for name, (of, arm) in students.items()}
    return {
        "seed": seed,
        "right": {name: told(marks[question] for question in sorted(marks)) for name, marks in right.items()},
        **{key: {name: of[key] for name, of in counts.items()} for key in ("steps", "weighted_tokens")},
        **{key: {name: of["own_texts"][key] for name, of in counts.items() if of.get("own_texts")} for key in TEXTS},
    }


def trained(run: RunDirectory, arm: str) -> dict[str, Any]:
    """Steps, and tokens with a weight, of a training."""
    place = run.stage(arm, "train")
    return gather_training(place, read_manifest(place)) or {}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", type=Path, required=True, help="directory of a trained student of the demo's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--quick", action="store_true", help="one seed, few questions and steps: does it run at all?")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    wanted.teacher = wanted.teacher.resolve()
    wanted.seeds = wanted.seeds[:1] if wanted.quick else wanted.seeds
    with tempfile.TemporaryDirectory() as temporary:
        root = wanted.runs or Path(temporary)
        rows = [measure(wanted, root / f"seed-{seed}", seed) for seed in wanted.seeds]
    share = {
        name: [row["right"][name].count("1") / len(row["right"][name]) for row in rows] for name in rows[0]["right"]
    }
    print(table(["seed", *share], [[row["seed"], *(of[at] for of in share.values())] for at, row in enumerate(rows)]))
    others = [(OWN, EQUAL), *((f"{OWN}{end}", f"{name}{end}") for name in ("traces", NONE, RAISED) for end in RATES)]
    for mine, other in others:
        found = own_texts(mine, other)(Results({"runs": {}}, {"on_policy": {"runs": rows}}))
        if found is not None:
            print(f"{mine} minus {other}: {points(found.mean, found.unit)} points {between(found)}")
    apart = max(abs(row["steps"][OWN] - row["steps"]["traces"]) for row in rows)
    tokens = max(abs(row["weighted_tokens"][EQUAL] / row["weighted_tokens"][OWN] - 1) for row in rows)
    claims = [claim("steps of own that traces has not", apart, "<=", 0)]
    if not wanted.quick:
        claims.append(claim("tokens with a weight of equal over those of own, apart from 1", tokens, "<=", 0.02))
    return finish({"machine": describe(), "quick": wanted.quick, "runs": rows}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
