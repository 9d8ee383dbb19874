"""Does it pay to follow a teacher's distribution beside the label? The demo's task, by divergence and by kind.

    python benchmarks/distil.py [--arms NAME ...] [--seeds 0 1 2] [--run DIR] [--teachers DIR] [--json PATH] [--quick]

For each seed the demo's student is trained (or taken from `--teachers`, where `benchmarks/demo.py --runs` has left it).
It scores the documents that it learnt from (its 16 most probable tokens), and a smaller student learns the same
documents once an arm, in the same order, for as many steps: from the label alone, and as recipes/demo_topk.yaml has it.
Both terms together are one loss, so the arms see equally many tokens. In `answer_only` all of the teacher's half lies
on the answer and the delimiters; `answer_weight` is the label alone with so much weight on these that they have the
same share of the loss, by the counts of the whole store. What lies between the two is the teacher's. Reverse
and JSD have arms by kind, too.

Measured on held-out questions: right answers, and their difference to the label alone, question by question. An
interval (95 %) takes questions of all seeds as drawn, the seeds as given; each seed's share stands beside it. Nothing
here claims that a teacher pays; the claims hold the comparison.

Every arm's answers are kept, a character a question (`by_seed`), so that any two can be compared question by question.
`--arms` measures some, and puts them into the file of `--json` beside the others that it holds. With `--run DIR` a
second start goes on where the first was cut off. `--quick` runs everything once, and says nothing about students.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from demo import RECIPE as DEMO
from demo import run
from machine import claim, describe, finish, table
from scores import answers, mean, shown, told

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPE = DEMO.with_name("demo_topk.yaml")
LABEL, HEAVY, DIVERGENCES = "label_only", "answer_weight", ("forward", "reverse", "jsd")
ANSWERS = {"forward": "answer_only", "reverse": "reverse_answer", "jsd": "jsd_answer"}  # no teacher at the trace
TRACES = {"forward": "trace_only", "reverse": "reverse_trace", "jsd": "jsd_trace"}
ARMS: dict[str, Any] = {
    LABEL: {"distil": None},
    **{how: {"distil": {"divergence": how}} for how in DIVERGENCES[1:]},
    **{arm: {"distil": {"divergence": how, "weight": {"answer": 0}}} for how, arm in TRACES.items()},
    **{arm: {"distil": {"divergence": how, "weight": {"trace": 0}}} for how, arm in ANSWERS.items()},
    "teacher_alone": {"distil": {"mix": 1.0}},
}
EVERY = [MAIN_ARM, *ARMS, HEAVY]
FOLLOWED = ("answer", "control")  # what `answer_only` has a teacher for
Rows = list[dict[str, Any]]
SMALL = ["train.ranks=1", "train.held_out_every=0", "train.checkpoint_every=0", "train.checkpoint_interval=null"]
QUICK = ["questions.train=80", "questions.test=20", "train.steps=10", "train.warmup=1", "evaluate.batch_size=20"]


def tracestill(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "tracestill.launch.cli", *words], check=True)


def heavy(made: RunDirectory) -> dict[str, Any]:
    """The arm whose label gives answer and delimiters the share of the loss that both terms of `answer_only` give them.

    With a share r of the targets theirs is (1 - mix) r + mix there; here a r / (1 - r + a r), for a weight of a.
    """
    recipe = made.for_arm(MAIN_ARM)
    kinds = recipe.span_kinds()
    counts = TokenStore(made.stage(MAIN_ARM, "encode") / "tokens.arrow", kinds).counts.sum(0)
    weighed = counts * np.array([name not in ("pad", "prompt") for name in kinds.names])
    r = float(weighed[kinds.mask(FOLLOWED)].sum() / weighed.sum())
    assert recipe.distil is not None
    share = (1 - recipe.distil.mix) * r + recipe.distil.mix
    weight = share / (1 - share) * (1 - r) / r
    return {"distil": None, "weighting": {"weights": dict.fromkeys(FOLLOWED, round(weight, 6))}}


def measure(wanted: argparse.Namespace, place: Path, seed: int) -> dict[str, Any]:
    """Arms of a seed: what each answered, question by question, and what it was trained on."""
    more = [f"seed={seed}", *(QUICK if wanted.quick else [])]
    if wanted.teachers is None:
        teacher = place / "teacher"
        run(DEMO, teacher, [*more, *SMALL, "arms={}"])
    else:
        teacher = wanted.teachers / f"seed-{seed}"
    found = RunDirectory.open(teacher)
    export = str((found.stage(MAIN_ARM, "train") / "export").resolve())
    settings = [*more, *SMALL, f"encode.tokenizer.path={export}", f"score.teacher.model={export}"]
    root = place / "arms"

    def prepare(until: str, arms: dict[str, Any]) -> RunDirectory:
        words = [word for setting in (*settings, f"arms={json.dumps(arms)}") for word in ("--set", setting)]
        tracestill("run", str(RECIPE), "--run-dir", str(root), "--until", until, "--replace", *words)
        return RunDirectory.open(root)

    of_label = heavy(prepare("encode", {}))
    arms = {**ARMS, HEAVY: of_label}
    made = prepare("evaluate", {arm: arms[arm] for arm in wanted.arms if arm != MAIN_ARM})
    about, right = {}, {"teacher": answers(found, MAIN_ARM)}
    for arm in wanted.arms:
        trained, planned = (read_manifest(made.stage(arm, stage)) or {} for stage in ("train", "plan"))
        about[arm] = {"steps": trained["counts"]["steps"], "plan": planned["digests"]}
        right[arm] = answers(made, arm)
    weight = of_label["weighting"]["weights"]["answer"]
    return {**told({"seed": seed, "right": right}), "about": about, HEAVY: weight}


def joined(rows: Rows, held: dict[str, Any]) -> Rows:
    """What is known of each seed: what was measured now, and what a file ``held`` of the other arms."""
    before = {row["seed"]: row for row in held.get("by_seed", [])}
    found = []
    for row in rows:
        old = before.get(row["seed"], {"right": {}, "about": {}})
        found.append({**row, **{key: {**old[key], **row[key]} for key in ("right", "about")}})
    return found


def summary(rows: Rows) -> dict[str, Any]:
    """Arm -> accuracy, and its difference to the label alone, and to the label with the answer weighed as much."""
    read = [
        {"seed": row["seed"], "right": {arm: dict(enumerate(map(int, told))) for arm, told in row["right"].items()}}
        for row in rows
    ]
    known = [arm for arm in ("teacher", *EVERY) if all(arm in row["right"] for row in rows)]
    found: dict[str, Any] = {arm: {"right": mean(read, arm)} for arm in known}
    for arm in known:
        if LABEL in known and arm not in ("teacher", LABEL):
            found[arm]["minus_label"] = mean(read, arm, LABEL)
        if HEAVY in known and arm in ANSWERS.values():
            found[arm]["minus_answer_weight"] = mean(read, arm, HEAVY)
    return found


def claims_of(rows: Rows) -> list[dict[str, Any]]:
    """That the comparison is one of equals."""
    about = [row["about"].values() for row in rows]
    plans = max(len({json.dumps(one["plan"]) for one in of_seed}) for of_seed in about)
    steps = [one["steps"] for of_seed in about for one in of_seed]
    return [
        claim("different plans within a seed", plans, "<=", 1),
        claim("most over fewest steps of an arm", max(steps) / min(steps), "<=", 1),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=EVERY, default=EVERY, help="these alone; default: all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--teachers", type=Path, help="runs of benchmarks/demo.py, whose students are the teachers")
    parser.add_argument("--quick", action="store_true", help="one seed, few questions and steps: does it run at all?")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.seeds = wanted.seeds[:1]
    held: dict[str, Any] = {}
    if set(wanted.arms) != set(EVERY) and wanted.json is not None and wanted.json.exists():
        held = json.loads(wanted.json.read_text(encoding="utf-8"))
        if (held["seeds"], held["quick"]) != (wanted.seeds, wanted.quick):
            parser.error(f"{wanted.json} is of the seeds {held['seeds']}{', --quick' if held['quick'] else ''}")
    with tempfile.TemporaryDirectory() as temporary:
        root = wanted.run or Path(temporary)
        rows = joined([measure(wanted, root / f"seed-{seed}", seed) for seed in wanted.seeds], held)
    found = summary(rows)
    names = {MAIN_ARM: "forward (main arm)"}
    cells = [
        [names.get(arm, arm), shown(one["right"]), " ".join(f"{share:.1%}" for share in one["right"]["by_seed"]),
         *(shown(one[other], "+") if other in one else "" for other in ("minus_label", "minus_answer_weight"))]
        for arm, one in found.items()
    ]  # fmt: skip
    print(table(["student", "right", "by seed", "minus label alone", f"minus {HEAVY}"], cells))
    figures = {"seeds": wanted.seeds, "quick": wanted.quick, "arms": ARMS, "result": found, "by_seed": rows}
    if held:
        figures["machine_before"] = held["machine"]
    return finish({"machine": describe(), **figures}, claims_of(rows), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
