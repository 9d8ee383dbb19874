"""Whether a recipe's student learns every span kind: its loss on held-out documents, before and after training.

    python benchmarks/held_out_loss.py recipes/RECIPE.yaml [--json PATH] [--run DIR] [--set key=value ...]

The recipe has to set train.held_out_every. Exits 1 if the loss of a kind did not fall.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from machine import claim, finish, table


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="key=value")
    parser.add_argument("--run", type=Path, help="where the run is kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        run = wanted.run or Path(temporary) / "run"
        command = [sys.executable, "-m", "tracestill.launch.cli", "run", str(wanted.recipe), "--run-dir", str(run)]
        for setting in wanted.set:
            command += ["--set", setting]
        subprocess.run(command, check=True)
        report = json.loads((run / "report" / "report.json").read_text(encoding="utf-8"))
    curves = {arm: found["train"]["held_out"] for arm, found in report["arms"].items()}
    rows, claims = [], []
    for arm, curve in curves.items():
        first, last = curve[0], curve[-1]
        for kind, before in first["kinds"].items():
            after = last["kinds"][kind]
            rows.append([arm, kind, before["loss"], after["loss"]])
            share = after["loss"] / before["loss"]
            claims.append(claim(f"{arm}: held-out loss of {kind}, last over first", share, "<", 1.0))
    print(table(["arm", "kind", "loss before", "loss after"], rows))
    return finish({"recipe": wanted.recipe.name, "held_out": curves, "stages": report["stages"]}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
