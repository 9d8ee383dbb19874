"""Does it pay to follow a teacher's distribution beside the label? The demo's task, by divergence and by kind.

    python benchmarks/distil.py [--seeds 0 1 2] [--run DIR] [--teachers DIR] [--json PATH] [--quick]

For each seed the demo's student is trained (or taken from `--teachers`, where `benchmarks/demo.py --runs` has left it).
It scores the documents that it learnt from (its 16 most probable tokens), and a smaller student learns the same
documents once an arm, in the same order, for as many steps: from the label alone, and as recipes/demo_topk.yaml has it.
Both terms together are one loss, so the arms see equally many tokens.

Measured on held-out questions: right answers, and their difference to the label alone, question by question. An
interval (95 %) takes questions of all seeds as drawn, the seeds as given; each seed's share stands beside it. Nothing
here claims that a teacher pays; the claims hold the comparison. With `--run DIR` a second start goes on where the first
was cut off. `--quick` runs everything once, and says nothing about students.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo import RECIPE as DEMO
from demo import run
from machine import claim, describe, finish, table
from scores import answers, mean, shown

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory

RECIPE = DEMO.with_name("demo_topk.yaml")
LABEL = "label_only"
ARMS: dict[str, Any] = {
    LABEL: {"distil": None},
    "reverse": {"distil": {"divergence": "reverse"}},
    "jsd": {"distil": {"divergence": "jsd"}},
    "trace_only": {"distil": {"weight": {"answer": 0}}},
    "answer_only": {"distil": {"weight": {"trace": 0}}},
    "teacher_alone": {"distil": {"mix": 1.0}},
}
SMALL = ["train.ranks=1", "train.held_out_every=0", "train.checkpoint_every=0", "train.checkpoint_interval=null"]
QUICK = ["questions.train=80", "questions.test=20", "train.steps=10", "train.warmup=1", "evaluate.batch_size=20"]


def measure(wanted: argparse.Namespace, place: Path, seed: int) -> dict[str, Any]:
    """The arms of a seed: what each answered, and what it was trained on."""
    more = [f"seed={seed}", *(QUICK if wanted.quick else [])]
    if wanted.teachers is None:
        teacher = place / "teacher"
        run(DEMO, teacher, [*more, *SMALL, "arms={}"])
    else:
        teacher = wanted.teachers / f"seed-{seed}"
    found = RunDirectory.open(teacher)
    export = str((found.stage(MAIN_ARM, "train") / "export").resolve())
    where = [f"encode.tokenizer.path={export}", f"score.teacher.model={export}", f"arms={json.dumps(ARMS)}"]
    run(RECIPE, place / "arms", [*more, *SMALL, *where])
    made = RunDirectory.open(place / "arms")
    arms = [MAIN_ARM, *ARMS]
    manifests = {arm: [read_manifest(made.stage(arm, stage)) or {} for stage in ("train", "plan")] for arm in arms}
    return {
        "seed": seed,
        "right": {"teacher": answers(found, MAIN_ARM), **{arm: answers(made, arm) for arm in arms}},
        "about": {
            arm: {"steps": trained["counts"]["steps"], "plan": planned["digests"]}
            for arm, (trained, planned) in manifests.items()
        },
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Arm -> accuracy, and its difference to the label alone."""
    found: dict[str, Any] = {arm: {"right": mean(rows, arm)} for arm in ("teacher", LABEL, MAIN_ARM, *ARMS)}
    for arm in (MAIN_ARM, *ARMS):
        if arm != LABEL:
            found[arm]["minus_label"] = mean(rows, arm, LABEL)
    return found


def claims_of(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--run", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--teachers", type=Path, help="runs of benchmarks/demo.py, whose students are the teachers")
    parser.add_argument("--quick", action="store_true", help="one seed, few questions and steps: does it run at all?")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.seeds = wanted.seeds[:1]
    with tempfile.TemporaryDirectory() as temporary:
        root = wanted.run or Path(temporary)
        rows = [measure(wanted, root / f"seed-{seed}", seed) for seed in wanted.seeds]
    found = summary(rows)
    names = {MAIN_ARM: "forward (main arm)"}
    cells = [
        [names.get(arm, arm), shown(one["right"]), " ".join(f"{share:.1%}" for share in one["right"]["by_seed"]),
         shown(one["minus_label"], "+") if "minus_label" in one else ""]
        for arm, one in found.items()
    ]  # fmt: skip
    print(table(["student", "right", "by seed", "minus label alone"], cells))
    figures = {"machine": describe(), "seeds": wanted.seeds, "quick": wanted.quick, "arms": ARMS, "result": found}
    return finish(figures, claims_of(rows), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
