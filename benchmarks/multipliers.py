"""What the multipliers that read the model do to a student that starts from nothing: dft and focal on all kinds, and
on the kinds of the trace alone.

    python benchmarks/multipliers.py [--recipe PATH] [--seeds 0 1 2] [--json PATH] [--runs DIR]

Each seed is a whole run of the recipe (default: recipes/demo.yaml, one digit less, in fewer and smaller steps) with
questions, traces, packs and student of its own; its arms differ in ``weighting`` alone. ``traces`` is plain
cross-entropy.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.runs or Path(temporary)
        for seed in arguments.seeds:
            settings = [f"seed={seed}", f"arms={json.dumps(ARMS)}", *(SMALLER if arguments.recipe == RECIPE else [])]
            report = run(arguments.recipe, root / f"seed-{seed}", settings)
            right = accuracy(report)
            for arm, found in report["arms"].items():
                losses = {kind: row["loss"] for kind, row in found["evaluation"]["kinds"].items()}
                rows.append({"seed": seed, "arm": arm, "accuracy": right[arm], "held_out_loss": losses})
    cells = [[f"{row['seed']}", row["arm"], row["accuracy"], *row["held_out_loss"].values()] for row in rows]
    print(table(["seed", "arm", "right", *rows[0]["held_out_loss"]], cells))
    return finish({"recipe": arguments.recipe.name, "runs": rows}, [], arguments.json)


if __name__ == "__main__":
    sys.exit(main())
