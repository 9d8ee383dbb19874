"""What becomes of a student that teaches itself: its ways of solving vanish, unless something is done about it.

    python benchmarks/rounds.py --runs DIR [--seeds 0 1 2] [--rounds 3] [--alone] [--json PATH] [--plot PATH] [--quick]

Arms of recipes/demo_rounds.yaml on a shorter task (sums of three digits, 300 questions, a teacher that never errs,
STEPS steps of one small pack, so that a round takes about 40 s of one core), from one round 0 a seed:

- `bare`: each round learns only what the student before wrote, all of it, at temperature 0.7
- `filtered`: likewise, but only what is right and sound
- `remedies`: temperature 1, half of the first teacher's traces, more on unsolved questions, a floor under rare ways
- `only NAME` (with `--alone`): filtered, and one of the remedies
- `ruled` (with `--alone`): filtered, and the recipe's own rule, which may end it

Nothing stops the others, so that all rounds are seen; where the recipe's rule would have stopped is told from their
figures. Run again with the same DIR it goes on, and with the same JSON `--alone` adds to what that holds. `--quick`:
one seed, one round.

How collapse is measured was laid down before the seeds 0 to 2 were run, as were the bars of `claims_of`: by eight
samples of each of the 50 test questions, at temperature 1 for all arms (`apart`), so that neither `rounds.temperature`
nor the training questions that a student happens to solve are part of it. STEPS was chosen on seed 7, by round 0 alone:
so that it is mostly right. (An earlier experiment had students that were right in a third; there the remedies failed.)
The bars of single remedies (`claims_of_alone`) were laid down before any of those had been run.
The rule that the claims speak of is `stop.accuracy` and `stop.coverage`, all that there was then; `stop.differ` was
made when seeds 0 and 1 had been seen (`with_stop_differ`).
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

from machine import claim, finish, table

from tracestill.data_pipeline.rounds.config import StopConfig
from tracestill.data_pipeline.rounds.verdict import DIFFER, SEEN, after_training, before_training, seen_over_chance

RECIPE = Path(__file__).parents[1] / "recipes" / "demo_rounds.yaml"
OWN = ["rounds.keep=0", "rounds.temperature=0.7", "rounds.unsolved=0", "rounds.floor=0"]
REMEDIES = ("keep", "temperature", "unsolved", "floor")
ARMS = {"bare": [*OWN, "select.policy=none"], "filtered": OWN, "remedies": []}
ALONE = {f"only {key}": [each for each in OWN if each.split(".")[1].split("=")[0] != key] for key in REMEDIES}
RULED = "ruled"
STEPS = 800
SHORT = [
    *("questions.options.digits=3", "questions.train=300", "questions.test=50", "questions.validation=60"),
    *("sample.teachers.0.options.error_rate=0", 'select.paths.same="off"'),  # so that all policies keep all of round 0
    *("plan.capacity=1024", "plan.packs_per_step=1", "plan.group=1", "train.ranks=1"),
    *(f"train.steps={STEPS}", "train.warmup=12", "train.checkpoint_every=0"),
    "evaluate.samples={count: 8, temperature: 1.0}",
]
NO_MORE = ["evaluate.variations=null", "evaluate.also={}"]  # which the recipe asks besides, and nothing here reads
LAID_DOWN = StopConfig(differ=None)
NO_STOP = ["rounds.stop.accuracy=false", "rounds.stop.coverage=null", "rounds.stop.differ=null"]


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


def stopped_at(found: list[dict[str, Any]], stop: StopConfig) -> int:
    """The round at which a rule ends these; one more than there are if it does not."""
    for at, row in enumerate(found):
        if at and before_training(at, row["traces"], stop) is not None:
            return at
        if after_training(found[: at + 1], stop) is not None:
            return at
    return len(found)


def row_of(seed: str, arm: str, row: dict[str, Any]) -> list[Any]:
    traces, written = row["traces"], row.get("written")
    right = written["accepted_of"].get("sampled", 0) / written["asked"]["sampled"] if written else 1.0
    figures = [traces["entropy"], traces["differ_same"] or 0.0, traces["differ_first"] or 0.0, traces["pairs"]]
    seen = [seen_over_chance(traces) or 0.0, f"{traces['tried']:.0%} ({traces['tried_by_chance']:.0%})"]
    told = [f"{accuracy(row):.1%}", apart(row), f"{right:.1%}"]
    return [seed, arm, row["round"], *told, *figures, *seen]


def apart(row: dict[str, Any]) -> float:
    """How often two right samples of a test question take different paths. NaN of a student without two such: it tells
    nothing of ways, and no bar holds."""
    return row["apart"]["share"] if row["apart"] else math.nan


def of_last(found: list[dict[str, Any]], count: int, of: Callable[[dict[str, Any]], float]) -> float:
    """A figure of the last of all rounds. NaN of an arm that ended before: an earlier round does not speak for it."""
    return of(found[-1]) if len(found) > count else math.nan


def accuracy(row: dict[str, Any]) -> float:
    """Of validation and test questions together."""
    parts = row, row["test"]
    return sum(part["accuracy"] * part["questions"] for part in parts) / sum(part["questions"] for part in parts)


def claims_of(runs: dict[str, dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Of each seed: ways of solving vanish without the remedies and stay with them, and the rule tells both apart; of
    all seeds together: the remedies cost no accuracy."""
    claims = []
    for seed, arms in runs.items():
        left = {arm: of_last(found, count, apart) / (apart(found[0]) or math.nan) for arm, found in arms.items()}
        said = "right samples differ, last round over round 0"
        claims.append(claim(f"{said}, bare, seed {seed}", left["bare"], "<", DIFFER))
        claims.append(claim(f"{said}, filtered, seed {seed}", left["filtered"], "<", DIFFER))
        claims.append(claim(f"{said}, remedies, seed {seed}", left["remedies"], ">", 0.8))
        seen = of_last(arms["remedies"], count, lambda row: seen_over_chance(row["traces"]) or 0.0)
        claims.append(claim(f"rare ways seen over chance, last round, remedies, seed {seed}", seen, ">=", SEEN))
        ended = {arm: stopped_at(found, LAID_DOWN) for arm, found in arms.items()}
        said = "round at which the rule ends it"
        claims.append(claim(f"{said}, bare, seed {seed}", ended["bare"], "<=", count))
        claims.append(claim(f"{said}, filtered, seed {seed}", ended["filtered"], "<=", count))
        claims.append(claim(f"{said}, remedies (none), seed {seed}", ended["remedies"], ">", count))
    last = {arm: fmean(of_last(arms[arm], count, accuracy) for arms in runs.values()) for arm in ARMS}
    first = fmean(accuracy(arms["remedies"][0]) for arms in runs.values())
    told = "accuracy of the last round, mean of the seeds, remedies minus"
    claims.append(claim(f"{told} bare", last["remedies"] - last["bare"], ">=", 0.0))
    claims.append(claim(f"{told} round 0", last["remedies"] - first, ">=", -0.05))
    return claims


def claims_of_alone(
    alone: dict[str, dict[str, Any]], runs: dict[str, dict[str, Any]], count: int
) -> list[dict[str, Any]]:
    """Of each seed: what keeps ways is the first teacher's traces, and temperature; and a rule that ends rounds ends
    them where the figures of `filtered` say."""
    claims = []
    for seed, arms in alone.items():
        for key in REMEDIES:
            found = arms[f"only {key}"]
            left = of_last(found, count, apart) / (apart(found[0]) or math.nan)
            than = ">" if key in ("keep", "temperature") else "<"
            claims.append(
                claim(f"right samples differ, last round over round 0, only {key}, seed {seed}", left, than, DIFFER)
            )
        apart_by = abs(len(arms[RULED]) - stopped_at(runs[seed]["filtered"], StopConfig()))
        claims.append(claim(f"rounds trained by `ruled` and those foretold, apart, seed {seed}", apart_by, "<=", 0))
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
            for axis, of in zip(axes, (apart, accuracy), strict=True):
                axis.plot(numbers, [of(row) for row in found], color=f"C{at}", label=arm, alpha=0.8)
    axes[0].set(title="two right samples of a test question differ, share")
    axes[1].set(title="held-out questions answered right, share")
    for axis in axes:
        axis.set(xlabel="round", ylim=(0, None))
        axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    by_label = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    axes[0].legend(by_label.values(), by_label.keys())
    figure.savefig(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="rounds after round 0")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="*.svg or *.png")
    parser.add_argument("--alone", action="store_true", help="each remedy alone, too, and the rule")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    seeds, count = (arguments.seeds[:1], 1) if arguments.quick else (arguments.seeds, arguments.rounds)
    held, singly = held_in(arguments.json) if arguments.alone else ({}, {})
    asked = dict.fromkeys(map(str, seeds))
    runs = {seed: held.get(seed) or arms_of(arguments.runs, int(seed), ARMS, count) for seed in {**held, **asked}}
    more = {**ALONE, RULED: OWN} if arguments.alone else {}
    alone = singly | {seed: arms_of(arguments.runs, int(seed), more, count) for seed in asked if more}
    heads = ["seed", "arm", "round", "accuracy", "apart", "right", "entropy", "differ", "round 0's", "pairs"]
    every = [
        (s, arm, row) for each in (runs, alone) for s, arms in each.items() for arm, r in arms.items() for row in r
    ]
    print(table([*heads, "rare seen", "tried"], [row_of(*one) for one in every]))
    if arguments.plot is not None:
        plot(runs, arguments.plot)
    claims = [] if arguments.quick else claims_of(runs, count) + claims_of_alone(alone, runs, count)
    return finish(about(runs, alone), claims, arguments.json)


def held_in(path: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The runs that a JSON holds, by seed, and those of single remedies, if they were made as they would be now."""
    if path is None or not path.exists():
        return {}, {}
    held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    same = held["settings"] == SHORT and all(held["arms"].get(arm) == own for arm, own in ARMS.items())
    return (held["runs"], held["alone"]) if same else ({}, {})


def about(runs: dict[str, dict[str, Any]], alone: dict[str, dict[str, Any]]) -> dict[str, Any]:
    every = {seed: arms | alone.get(seed, {}) for seed, arms in runs.items()}
    ends = {
        name: {seed: {arm: stopped_at(found, stop) for arm, found in arms.items()} for seed, arms in every.items()}
        for name, stop in {"rule_ends_at": LAID_DOWN, "with_stop_differ": StopConfig()}.items()
    }
    arms = ARMS | (ALONE | {RULED: OWN} if alone else {})
    return {"recipe": RECIPE.name, "settings": SHORT, "arms": arms, "runs": runs, "alone": alone, **ends}


def arms_of(place: Path, seed: int, arms: dict[str, list[str]], count: int) -> dict[str, list[dict[str, Any]]]:
    """Arm -> what is known of its rounds, all of which begin with one round 0."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for arm, own in arms.items():
        directory = place / f"seed-{seed}"
        begun = [one for one in ("bare", *arms) if (directory / one / "rounds.json").exists()]
        if begun:
            share_round_0(directory / begun[0], directory / arm)
        settings = [f"seed={seed}", f"rounds.count={count}", *SHORT, *NO_MORE, *own, *([] if arm == RULED else NO_STOP)]
        found = rounds(directory / arm, settings)
        runs[arm] = [row for row in found["rounds"] if row["trained"]]
        if found["stopped"]:
            print(f"seed {seed}, {arm}: {found['stopped']['why']}")
    return runs


if __name__ == "__main__":
    sys.exit(main())
