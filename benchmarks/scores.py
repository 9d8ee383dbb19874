"""Does it pay to choose tokens by what the student says of them? The demo's task, by stored channels and at random.

    python benchmarks/scores.py [--recipe PATH] [--seeds 0 1 2] [--run DIR] [--json PATH] [--quick]

For each seed a student is trained for some steps on whole traces. Then it is the one that everybody starts from: it
scores every document (`nll`, `entropy`, and the `influence` of each step on the answer), and goes on learning, once an
arm, on the same documents in the same order for as many steps. Arms differ in which tokens of the trace weigh anything:
all; 20 % at random, of the largest nll, of the largest entropy, in the steps of the largest influence; 30 % at random,
the first 30 % of each trace, its last 30 %. Prompts weigh nothing, answers and delimiters weigh 1 in all of them. (A
student that starts from nothing would only learn whether it can do without the tokens that it has never been shown.)

Measured on held-out questions: right answers, and their difference to random tokens of the same number, question by
question. An interval (95 %) takes questions of all seeds as drawn, the seeds as given; each seed's share stands beside
it. Nothing here claims that a choice pays. The claims hold the comparison: that arms saw equally many weighted tokens
of the trace, in the same documents and steps. With `--run DIR` a second start goes on where the first was cut off.
`--quick` runs everything once in two minutes of one core, and says nothing about students; the whole takes about 35.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from demo import RECIPE, run
from machine import claim, describe, finish, table

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.losses.intervals import mean_interval
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory, open_channels
from tracestill.trainer.weighting import TargetWeights, make_weighting

PARTS = Path(__file__).with_name("scores_parts.py")
SHARE, PART = 0.2, 0.3
LARGEST = {"keep": "above", "share": SHARE}
ARMS: dict[str, dict[str, Any]] = {
    "random20": {"use": "by_channel", "options": {"channel": "base.nll", "control": "store", **LARGEST}},
    "nll20": {"use": "by_channel", "options": {"channel": "base.nll", **LARGEST}},
    "entropy20": {"use": "by_channel", "options": {"channel": "base.entropy", **LARGEST}},
    "influence20": {"use": "critical", "options": LARGEST},
    "random30": {"use": "by_channel", "options": {"channel": "base.nll", "control": "store", "share": PART}},
    "first30": {"use": "scores_parts:Part", "options": {"share": PART}},
    "last30": {"use": "scores_parts:Part", "options": {"share": PART, "end": True}},
}
FIRST, LAST = "first30", "last30"
CONTROL = {**dict.fromkeys(("nll20", "entropy20", "influence20"), "random20"),
           **dict.fromkeys((FIRST, LAST), "random30")}  # fmt: skip
BEFORE = "before"
SCORE = {"base": {"model": "student", "channels": ["nll", "entropy", "influence"]}}
SMALL = [
    "questions.options.digits=4",
    "plan.capacity=2048",
    "train.ranks=1",
    "train.held_out_every=0",
    "train.checkpoint_every=0",
    "train.checkpoint_interval=null",
]
QUICK = ["questions.train=120", "questions.test=60", "sample.samples=2", "evaluate.batch_size=60"]


def settings_of(wanted: argparse.Namespace, seed: int) -> list[str]:
    return [f"seed={seed}", *SMALL, *(QUICK if wanted.quick else [])]


def length(steps: int) -> list[str]:
    return [f"train.steps={steps}", f"train.warmup={steps // 10}"]


def train(wanted: argparse.Namespace, place: Path, seed: int) -> RunDirectory:
    """Both trainings of a seed: the student that everybody starts from, and the arms."""
    place.mkdir(parents=True, exist_ok=True)
    recipe = place / "recipe.yaml"
    if not recipe.exists():
        shutil.copyfile(wanted.recipe, recipe)
        shutil.copyfile(PARTS, place / PARTS.name)
    settings = settings_of(wanted, seed)
    run(recipe, place / BEFORE, [*settings, *length(wanted.before), "arms={}"])
    student = (RunDirectory.open(place / BEFORE).stage(MAIN_ARM, "train") / "export").resolve()
    arms: dict[str, Any] = {name: {"weighting": weighting} for name, weighting in ARMS.items()}
    arms[BEFORE] = {"train": "none"}
    more = [
        f"student={json.dumps({'pretrained': str(student)})}",
        f"encode.tokenizer={json.dumps({'path': str(student)})}",
    ]
    more += [*length(wanted.steps), f"train.lr={wanted.lr}", f"score={json.dumps(SCORE)}", f"arms={json.dumps(arms)}"]
    run(recipe, place / "arms", [*settings, *more])
    return RunDirectory.open(place / "arms")


def answers(made: RunDirectory, arm: str) -> dict[str, bool]:
    """Held-out question -> whether an arm's student answers it right."""
    path = made.stage(arm, "evaluate") / "predictions.parquet"
    rows = pq.read_table(path, columns=["question_id", "correct"]).to_pylist()
    return {row["question_id"]: bool(row["correct"]) for row in rows}


def looked_at(made: RunDirectory, arm: str) -> dict[str, Any]:
    """What an arm's training was made of: its plan, its steps, and of the trace's targets how many weigh anything."""
    recipe, inputs = made.for_arm(arm), made.train_stage(arm)[1]
    store = TokenStore(inputs["encode"] / "tokens.arrow", recipe.span_kinds())
    scores = open_channels(made, arm, store, made.scores_read(arm))
    weights = TargetWeights(store, make_weighting(recipe.weighting, recipe.span_kinds(), recipe.seed, scores))
    in_trace, found = recipe.span_kinds().mask(["trace"]), np.zeros(2, np.int64)
    for document in range(len(store)):
        inside = in_trace[store.kinds(document)]
        inside[0] = False
        found += [inside.sum(), (inside & (weights.of_document(document, 0) > 0)).sum()]
    trained, planned = (read_manifest(path) or {} for path in (made.stage(arm, "train"), inputs["plan"]))
    return {
        "trace_targets": int(found[0]),
        "weighted": int(found[1]),
        "plan": planned["digests"],
        "steps": trained["counts"]["steps"],
    }


def measure(wanted: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Of each seed: arm -> what it answered, and what it was trained on."""
    rows = []
    for seed in wanted.seeds:
        made = train(wanted, root / f"seed-{seed}", seed)
        trained = [MAIN_ARM, *ARMS]
        rows.append(
            {
                "seed": seed,
                "right": {arm: answers(made, arm) for arm in [BEFORE, *trained]},
                "about": {arm: looked_at(made, arm) for arm in trained},
            }
        )
    return rows


def mean(rows: list[dict[str, Any]], arm: str, other: str | None = None) -> dict[str, Any]:
    """Share of right answers of an arm, or its difference to that of another, with its interval and by seed."""
    values, groups, by_seed = [], [], []
    for row in rows:
        mine, theirs = row["right"][arm], row["right"].get(other, {})
        own = [float(right) - float(theirs.get(name, False)) for name, right in sorted(mine.items())]
        values += own
        groups += [f"{row['seed']} {name}" for name in sorted(mine)]
        by_seed.append(float(np.mean(own)))
    interval = mean_interval(np.array(values), np.ones(len(values)), groups)
    return {"mean": float(np.mean(values)), "interval_95": interval, "by_seed": by_seed}


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Arm -> accuracy, difference to its control, and share of the trace's targets that weigh anything; of the first
    part also the difference to the last."""
    found: dict[str, Any] = {BEFORE: {"right": mean(rows, BEFORE)}}
    for arm in [MAIN_ARM, *ARMS]:
        about = [row["about"][arm] for row in rows]
        share = sum(one["weighted"] for one in about) / sum(one["trace_targets"] for one in about)
        found[arm] = {"right": mean(rows, arm), "share_of_trace": share}
        if arm in CONTROL:
            found[arm]["minus_random"] = mean(rows, arm, CONTROL[arm])
    found[FIRST]["minus_last"] = mean(rows, FIRST, LAST)
    return found


def told(row: dict[str, Any]) -> dict[str, Any]:
    """What is kept of a seed: the answers of each arm, a character a question in the order of their ids."""
    right = {arm: "".join(str(int(one[name])) for name in sorted(one)) for arm, one in row["right"].items()}
    return {"seed": row["seed"], "right": right}


def claims_of(rows: list[dict[str, Any]], found: dict[str, Any]) -> list[dict[str, Any]]:
    """That the comparison is one of equals; what it came to is for the table."""
    about = [one for row in rows for one in row["about"].values()]
    plans = [len({json.dumps(one["plan"]) for one in row["about"].values()}) for row in rows]
    steps = [one["steps"] for one in about]
    claims = [
        claim("different plans within a seed", max(plans), "<=", 1),
        claim("most over fewest steps of an arm", max(steps) / min(steps), "<=", 1),
    ]
    for arm, control in CONTROL.items():
        difference = abs(found[arm]["share_of_trace"] - found[control]["share_of_trace"])
        claims.append(claim(f"{arm}: weighted share of the trace, distance from {control}'s", difference, "<=", 0.01))
    return claims


def shown(one: dict[str, Any], sign: str = "") -> str:
    low, high = one["interval_95"] or (float("nan"), float("nan"))
    return f"{one['mean']:{sign}.1%} [{low:{sign}.1%}, {high:{sign}.1%}]"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--before", type=int, default=200, help="steps of the student that everybody starts from")
    parser.add_argument("--steps", type=int, default=300, help="steps of each arm")
    parser.add_argument("--lr", type=float, default=2e-3, help="of the arms")
    parser.add_argument("--run", type=Path, help="where the runs are kept (default: a temporary directory)")
    parser.add_argument("--quick", action="store_true", help="one seed, few questions and steps: does it run at all?")
    parser.add_argument("--json", type=Path)
    wanted = parser.parse_args()
    if wanted.quick:
        wanted.seeds, wanted.before, wanted.steps = wanted.seeds[:1], 20, 20
    with tempfile.TemporaryDirectory() as temporary:
        rows = measure(wanted, wanted.run or Path(temporary))
    found = summary(rows)
    cells = [
        [arm, shown(one["right"]), " ".join(f"{share:.1%}" for share in one["right"]["by_seed"]),
         f"{one['share_of_trace']:.1%}" if "share_of_trace" in one else "",
         shown(one["minus_random"], "+") if "minus_random" in one else ""]
        for arm, one in found.items()
    ]  # fmt: skip
    print(table(["tokens of the trace", "right", "by seed", "share weighted", "minus random"], cells))
    print(f"{FIRST} minus {LAST}: {shown(found[FIRST]['minus_last'], '+')}")
    sizes = {name: getattr(wanted, name) for name in ("seeds", "before", "steps", "lr", "quick")}
    figures = {"machine": describe(), "recipe": wanted.recipe.name, **sizes, "arms": ARMS, "result": found}
    figures["by_seed"] = [told(row) for row in rows]
    return finish(figures, claims_of(rows, found), wanted.json)


if __name__ == "__main__":
    sys.exit(main())
