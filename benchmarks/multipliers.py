"""What the multipliers that read the model do to a student that starts from nothing: dft and focal on all kinds, and
on the kinds of the trace alone; and dft to a pretrained student that has to learn a format.

    python benchmarks/multipliers.py [--recipe PATH] [--seeds 0 1 2] [--json PATH] [--runs DIR]
                                     [--student DIR --problems FILE]

Each seed is a whole run of the recipe (default: recipes/demo.yaml, one digit less, in fewer and smaller steps) with
questions, traces, packs and student of its own; its arms differ in ``weighting`` alone. ``traces`` is plain
cross-entropy. ``--student`` and ``--problems`` are as in ``delimiters.py``; without them that part is listed as absent.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import delimiters
from demo import RECIPE, accuracy, run
from machine import finish, table

SMALLER = [
    "questions.options.digits=4",
    "plan.capacity=2048",
    "train.steps=300",
    "train.ranks=1",
    "train.held_out_every=0",
    "train.checkpoint_every=0",
    "train.checkpoint_interval=null",
]
ARMS = {
    f"{use}{suffix}": {"weighting": {"use": use, "options": options}}
    for use in ("dft", "focal")
    for suffix, options in (("", {}), ("_trace", {"kinds": ["trace"]}))
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--student", type=Path, help="a pretrained student with a chat template")
    parser.add_argument("--problems", type=Path, help="worked problems, such as GSM8K's train.jsonl")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    known: Any = "absent: no --student and --problems"
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.runs or Path(temporary)
        if arguments.student and arguments.problems:
            known = pretrained(root, arguments.student.resolve(), arguments.problems)
        for seed in arguments.seeds:
            settings = [f"seed={seed}", f"arms={json.dumps(ARMS)}", *(SMALLER if arguments.recipe == RECIPE else [])]
            report = run(arguments.recipe, root / f"seed-{seed}", settings)
            right = accuracy(report)
            for arm, found in report["arms"].items():
                losses = {kind: row["loss"] for kind, row in found["evaluation"]["kinds"].items()}
                rows.append({"seed": seed, "arm": arm, "accuracy": right[arm], "held_out_loss": losses})
    cells = [[f"{row['seed']}", row["arm"], row["accuracy"], *row["held_out_loss"].values()] for row in rows]
    if cells:
        print(table(["seed", "arm", "right", *rows[0]["held_out_loss"]], cells))
    return finish({"recipe": arguments.recipe.name, "runs": rows, "pretrained": known}, [], arguments.json)


def pretrained(root: Path, student: Path, problems: Path) -> dict[str, dict[str, Any]]:
    """Arm -> right answers, answers cut off, and held-out nll by kind before and after training."""
    root.mkdir(parents=True, exist_ok=True)
    short, directory = (root / "problems.jsonl").resolve(), root / "pretrained"
    delimiters.write_problems(problems, short)
    arms = {name: arm for name, arm in ARMS.items() if name.startswith("dft")}
    recipe = {**delimiters.pretrained(student, short, 0), "weighting": {"weights": {"prompt": 0}}, "arms": arms}
    report = delimiters.run(recipe, directory)
    wanted = ("accuracy", "cut off", "questions", "held-out nll")
    found = delimiters.outcome(report, directory)
    return {"traces" if arm == "one" else arm: {name: about[name] for name in wanted} for arm, about in found.items()}


if __name__ == "__main__":
    sys.exit(main())
