"""What the delimiters of a trace should weigh where the recipe does not say: measured on the demo, and on a
pretrained student whose think tags are several tokens.

    python benchmarks/delimiters.py [--json PATH] [--runs DIR] [--seeds 0 1 2] [--student DIR --problems FILE]

With trace: 0.3 and answer: 1, the kind control weighs 1, as what a recipe does not name does, or as the trace that it
closes. (Where all kinds weigh 1, the two are one: demo_three_seeds.json.) ``--student`` is a directory with a chat
template, ``--problems`` a file of lines with question and answer, a worked solution that ends in ``#### 72``; without
them that part is listed as absent.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml
from machine import claim, finish, table

from tracestill.trainer.metrics.log import LOG, is_of_steps, read_log
from tracestill.trainer.recipe.recipe import MAIN_ARM

RECIPE = Path(__file__).parents[1] / "recipes" / "demo.yaml"
LOW = {"prompt": 0, "trace": 0.3, "answer": 1}
WEIGHTED = {  # of a recipe; the main arm is called one
    "weighting": {"weights": {**LOW, "control": 1}},
    "arms": {"as_trace": {"weighting": {"weights": {**LOW, "control": 0.3}}}},
}
DEMO_STEPS = 200  # of the recipe's 500: students that have learnt all cannot be told apart
SHORT = 420  # characters of a problem with its solution, so that a step holds a few of them
KEPT = ("answer", "derive", "control")


def run(recipe: dict[str, Any], directory: Path) -> dict[str, Any]:
    """The report of a run of a recipe that is given as data."""
    path = directory.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    command = [sys.executable, "-m", "tracestill.launch.cli", "run", str(path), "--run-dir", str(directory)]
    subprocess.run(command, check=True)
    return json.loads((directory / "report" / "report.json").read_text(encoding="utf-8"))


def outcome(report: dict[str, Any], directory: Path) -> dict[str, dict[str, Any]]:
    """Per arm: right answers, answers cut off, shares of the first step, and held-out nll by kind."""
    found = {}
    for arm, about in report["arms"].items():
        train = directory / "arms" / arm / "train"
        first = json.loads((train / "preview.json").read_text(encoding="utf-8"))
        held_out = about["train"]["held_out"]
        lines = filter(is_of_steps, read_log(train / LOG))
        found["one" if arm == MAIN_ARM else arm] = {
            "accuracy": about["evaluation"]["accuracy"],
            "cut off": about["evaluation"]["truncated"],
            "questions": about["evaluation"]["questions"],
            "first step": {
                row["kind"]: {name: row[name] for name in ("weight_share", "loss_share", "gradient_share")}
                for row in first["kinds"]
                if row["weight_share"]
            },
            "control's share of the loss, by step": {
                line["step"]: round(line["kinds"]["control"]["share"], 4) for line in lines
            },
            "held-out nll": [{k: round(row["loss"], 5) for k, row in at["kinds"].items()} for at in held_out],
        }
    return found


def demo(seed: int) -> dict[str, Any]:
    recipe = yaml.safe_load(RECIPE.read_text(encoding="utf-8"))
    train = {**recipe["train"], "steps": DEMO_STEPS, "ranks": 1, "checkpoint_interval": None, "held_out_every": 100}
    return {**recipe, "seed": seed, "train": train, **WEIGHTED}


def write_problems(source: Path, target: Path) -> None:
    """Short problems with their solutions, without a calculator's marks, as the recipe's file source reads them."""
    with source.open(encoding="utf-8") as lines, target.open("w", encoding="utf-8") as out:
        for line in map(json.loads, lines):
            solution = re.sub(r"<<[^>]*>>", "", line["answer"])
            if len(line["question"] + solution) <= SHORT:
                gold = solution.rpartition("####")[2].strip().replace(",", "")
                out.write(json.dumps({"question": line["question"], "gold": gold, "solution": solution}) + "\n")


def pretrained(student: Path, problems: Path, seed: int) -> dict[str, Any]:
    return {
        "name": "pretrained",
        "seed": seed,
        "questions": {"source": str(problems), "train": 400, "test": 24},
        "sample": {"teachers": [{"name": "recorded", "use": "gsm_symbolic"}], "samples": 1},
        "select": {"policy": "answer", "paths": {"same": "off"}},
        "encode": {"template": "chat", "tokenizer": {"path": str(student), "vocab_size": None}},
        "plan": {"capacity": 256, "packs_per_step": 1, "group": 1},
        "student": {"pretrained": str(student)},
        "train": {
            **{"steps": 40, "ranks": 1, "zero": 0, "lr": 3e-5, "schedule": "cosine", "warmup": 6},
            **{"held_out_every": 40, "log_every": 10, "precision": "fp32", "keep": 1, "checkpoint_interval": None},
        },
        "evaluate": {"max_new_tokens": 128, "batch_size": 24},
        **WEIGHTED,
    }


def show(title: str, found: dict[str, dict[str, Any]]) -> None:
    rows = []
    for arm, about in found.items():
        first, last = about["first step"]["control"], about["held-out nll"][-1]
        right = [round(about["accuracy"], 3), about["cut off"]]
        rows.append([arm, *(round(first[name], 3) for name in first), *right, *(last[kind] for kind in KEPT)])
    heads = ["control:", "of weights", "of loss", "of gradient", "right", "cut off", *(f"nll {kind}" for kind in KEPT)]
    print(f"\n{title}\n" + table(heads, rows))


def claims_of(figures: dict[str, Any]) -> list[dict[str, Any]]:
    """That a weight of 1 costs little: what the default rests on."""
    claims = []
    if seeds := list(figures["demo"].values()):
        one, other = (sum(f[arm]["held-out nll"][-1]["derive"] for f in seeds) for arm in ("one", "as_trace"))
        claims.append(claim("demo, sum of seeds: nll of derive at weight 1, over the other", one / other, "<=", 1.25))
    if isinstance(found := figures["pretrained"], dict):
        last = [found[arm]["held-out nll"][-1]["answer"] for arm in ("one", "as_trace")]
        share = list(found["one"]["control's share of the loss, by step"].values())[-1]
        claims.append(claim("pretrained: nll of the answer at weight 1, over the other", last[0] / last[1], "<=", 1.05))
        claims.append(claim("pretrained: control's share of the loss in the last steps, weight 1", share, "<", 0.05))
    return claims


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="of the demo")
    parser.add_argument("--student", type=Path, help="a pretrained student with a chat template")
    parser.add_argument("--problems", type=Path, help="worked problems, such as GSM8K's train.jsonl")
    parser.add_argument("--runs", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    figures: dict[str, Any] = {"demo": {}, "pretrained": "absent: no --student and --problems"}
    with tempfile.TemporaryDirectory() as temporary:
        root = wanted.runs or Path(temporary)
        if wanted.student and wanted.problems:
            root.mkdir(parents=True, exist_ok=True)
            write_problems(wanted.problems, root / "problems.jsonl")
            directory = root / "pretrained"
            report = run(pretrained(wanted.student.resolve(), (root / "problems.jsonl").resolve(), 0), directory)
            figures["pretrained"] = outcome(report, directory)
            show("pretrained student", figures["pretrained"])
        for seed in wanted.seeds:
            directory = root / f"seed-{seed}"
            figures["demo"][seed] = outcome(run(demo(seed), directory), directory)
            show(f"demo, seed {seed}", figures["demo"][seed])
    return finish(figures, claims_of(figures), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
