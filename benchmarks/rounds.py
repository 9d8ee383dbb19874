"""What becomes of a student that teaches itself: its ways of solving vanish, unless something is done about it.

    python benchmarks/rounds.py --runs DIR [--seeds 0 1 2] [--rounds 2] [--json PATH] [--plot PATH] [--quick]

Arms of recipes/demo_rounds.yaml on a shorter task (sums of three digits, 300 questions, a teacher that never errs, 160
steps of one pack, so that a training takes about 20 s of one core), from one round 0 a seed:

- `bare`: each round learns only what the student before wrote, all of it, at temperature 0.7
- `filtered`: likewise, but only what is right and sound
- `remedies`: temperature 1, half of the first teacher's traces, more on unsolved questions, a floor under rare ways

Nothing stops them, so that all rounds are seen; where the recipe's rule would have stopped is told from their figures.
Run again with the same DIR it goes on. `--quick`: one seed, one round.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine import claim, finish, table

from tracestill.data_pipeline.rounds.config import StopConfig
from tracestill.data_pipeline.rounds.verdict import after_training, before_training, seen_over_chance

RECIPE = Path(__file__).parents[1] / "recipes" / "demo_rounds.yaml"
OWN = ["rounds.keep=0", "rounds.temperature=0.7", "rounds.unsolved=0", "rounds.floor=0"]
ARMS = {"bare": [*OWN, "select.policy=none"], "filtered": OWN, "remedies": []}
SHORT = [
    *("questions.options.digits=3", "questions.train=300", "questions.test=50", "questions.validation=60"),
    *("sample.teachers.0.options.error_rate=0", 'select.paths.same="off"'),  # so that all policies keep all of round 0
    *("plan.capacity=2048", "plan.packs_per_step=1", "plan.group=1", "train.ranks=1"),
    *("train.steps=160", "train.warmup=12", "train.checkpoint_every=0"),
    *("evaluate.samples={count: 4}", "evaluate.variations={use: [order, wording.terse]}"),
]
NO_STOP = ["rounds.stop.accuracy=false", "rounds.stop.coverage=null"]


def rounds(directory: Path, settings: list[str]) -> dict[str, Any]:
    """What rounds.json says of a run of the recipe with some settings changed."""
    command = [sys.executable, "-m", "tracestill.launch.cli", "rounds", str(RECIPE), "--run-dir", str(directory)]
    command.append("--replace")  # of what another arm has begun with
    for setting in settings:
        command += ["--set", setting]
    subprocess.run(command, check=True)
    return json.loads((directory / "rounds.json").read_text(encoding="utf-8"))


def share_round_0(first: Path, directory: Path) -> None:
    """Let an arm begin with the round 0 of one that has kept the same: it is trained once."""
    if not directory.exists():
        (directory / "rounds").mkdir(parents=True)
        shutil.copytree(first / "rounds" / "0", directory / "rounds" / "0", symlinks=True)
        shutil.copy(first / "journal.sqlite", directory / "journal.sqlite")
        shutil.copy(first / "recipe.yaml", directory / "recipe.yaml")


def stopped_at(found: list[dict[str, Any]]) -> int:
    """The round at which the recipe's own rule ends these; one more than there are if it does not."""
    stop = StopConfig()
    for at, row in enumerate(found):
        if at and before_training(at, row["traces"], stop) is not None:
            return at
        if after_training(found[: at + 1], stop) is not None:
            return at
    return len(found)


def row_of(seed: int, arm: str, row: dict[str, Any]) -> list[Any]:
    traces, seen = row["traces"], seen_over_chance(row["traces"])
    figures = [traces["entropy"], traces["differ"] or 0.0, traces["self_bleu"] or 0.0, seen or 0.0, traces["words"]]
    return [
        seed,
        arm,
        row["round"],
        f"{row['accuracy']:.1%}",
        f"{traces['right'] / max(traces['traces'], 1):.1%}",
        *figures,
    ]


def claims_of(runs: dict[str, dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Of each seed: ways of solving vanish without the remedies and stay with them, and the rule tells both apart."""
    claims = []
    for seed, arms in runs.items():
        kept = {
            arm: (found[-1]["traces"]["differ"] or 0.0) / found[0]["traces"]["differ"] for arm, found in arms.items()
        }
        said = "two traces of a question differ, last round over round 0"
        claims.append(claim(f"{said}, bare, seed {seed}", kept["bare"], "<", 0.8))
        claims.append(claim(f"{said}, filtered, seed {seed}", kept["filtered"], "<", 0.8))
        claims.append(claim(f"{said}, remedies, seed {seed}", kept["remedies"], ">", 0.8))
        claims.append(
            claim(f"round at which the rule ends it, bare, seed {seed}", stopped_at(arms["bare"]), "<=", count)
        )
        claims.append(claim(f"likewise, remedies (none), seed {seed}", stopped_at(arms["remedies"]), ">", count))
        gain = arms["remedies"][-1]["accuracy"] - arms["bare"][-1]["accuracy"]
        claims.append(claim(f"accuracy of the last round, remedies minus bare, seed {seed}", gain, ">=", 0.0))
    return claims


def plot(runs: dict[str, dict[str, Any]], path: Path) -> None:
    """Diversity and accuracy by round: a line a seed, a colour an arm."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for arms in runs.values():
        for at, (arm, found) in enumerate(arms.items()):
            numbers = [row["round"] for row in found]
            axes[0].plot(numbers, [row["traces"]["differ"] for row in found], color=f"C{at}", label=arm, alpha=0.8)
            axes[1].plot(numbers, [row["accuracy"] for row in found], color=f"C{at}", label=arm, alpha=0.8)
    axes[0].set(xlabel="round", title="two traces of a question differ, share")
    axes[1].set(xlabel="round", title="validation questions answered right, share")
    by_label = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    axes[0].legend(by_label.values(), by_label.keys())
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=2, help="rounds after round 0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="*.svg or *.png")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    seeds, count = (arguments.seeds[:1], 1) if arguments.quick else (arguments.seeds, arguments.rounds)
    runs: dict[str, dict[str, Any]] = {}
    for seed in seeds:
        place = arguments.runs / f"seed-{seed}"
        for arm, own in ARMS.items():
            if arm != "bare":
                share_round_0(place / "bare", place / arm)
            settings = [f"seed={seed}", f"rounds.count={count}", *SHORT, *own, *NO_STOP]
            found = rounds(place / arm, settings)
            runs.setdefault(str(seed), {})[arm] = [row for row in found["rounds"] if row["trained"]]
            if found["stopped"]:
                print(f"seed {seed}, {arm}: {found['stopped']['why']}")
    heads = ["seed", "arm", "round", "accuracy", "right", "entropy", "differ", "self-BLEU", "rare seen", "words"]
    rows = [row_of(int(s), arm, row) for s, arms in runs.items() for arm, found in arms.items() for row in found]
    print(table(heads, rows))
    if arguments.plot is not None:
        plot(runs, arguments.plot)
    ends = {seed: {arm: stopped_at(found) for arm, found in arms.items()} for seed, arms in runs.items()}
    figures = {"recipe": RECIPE.name, "settings": SHORT, "arms": ARMS, "runs": runs, "rule_ends_at": ends}
    return finish(figures, [] if arguments.quick else claims_of(runs, count), arguments.json)


if __name__ == "__main__":
    sys.exit(main())
