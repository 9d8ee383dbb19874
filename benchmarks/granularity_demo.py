"""Does a small student need more of a trace than what its answer depends on? The demo with whole and cut traces.

    python benchmarks/granularity_demo.py [--recipe PATH] [--seeds 0] [--json PATH] [--runs DIR]

Arms of one selection: whole traces, `decisive`, and `random_drop` of as much of each trace as `decisive` leaves. Each
seed is a whole run of the recipe. No claim: accuracy by arm, and the tokens that it was bought with.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from demo import RECIPE, accuracy, run
from machine import describe, finish, table

ARMS = {
    "decisive": {"encode": {"granularity": "decisive"}},
    "random_drop": {"encode": {"granularity": {"keep": "random_drop", "ratio": "decisive"}}},
}


def tokens(directory: Path, arm: str) -> int:
    """Tokens of the training documents of an arm."""
    manifest = json.loads((directory / "arms" / arm / "encode" / "manifest.json").read_text(encoding="utf-8"))
    return int(manifest["counts"]["splits"]["train"]["tokens"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of the recipe")
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        root = arguments.runs or Path(temporary)
        for seed in arguments.seeds:
            settings = [f"seed={seed}", f"arms={json.dumps(ARMS)}", *arguments.set]
            report = run(arguments.recipe, root / f"seed-{seed}", settings)
            right, arms = accuracy(report), ["traces", *ARMS]
            rows.append(
                {"seed": seed, "accuracy": right, "tokens": {a: tokens(root / f"seed-{seed}", a) for a in arms}}
            )
    lines = [[row["seed"], arm, row["accuracy"][arm], row["tokens"][arm]] for row in rows for arm in row["accuracy"]]
    print(table(["seed", "arm", "accuracy", "tokens"], lines))
    return finish({"machine": describe(), "recipe": arguments.recipe.name, "settings": arguments.set, "runs": rows}, [],
                  arguments.json)  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
