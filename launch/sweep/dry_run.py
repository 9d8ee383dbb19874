"""What a sweep would do: its arms, what they share, and about how long it takes where a step was timed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.launch.report.wall_time import wall_seconds
from tracestill.launch.run.runner import is_due
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.sweep.grid import Grid, Point
from tracestill.launch.sweep.machine import Place
from tracestill.launch.sweep.one_arm import own_works
from tracestill.trainer.metrics.headway import spell
from tracestill.trainer.recipe.recipe import MAIN_ARM
from tracestill.trainer.recipe.run_directory import RunDirectory


def describe(run: RunDirectory, works: Sequence[Work], grid: Grid, places: Sequence[Place]) -> Iterator[str]:
    """Lines for people. ``works``: what the grid's arms need."""
    states = {point.arm: state_of(run, works, point) for point in grid.points}
    width = max(map(len, states))
    settings, seeds = len(grid.settings), ", ".join(map(str, grid.seeds))
    yield f"{len(states)} arms: {settings} setting(s) x {len(grid.seeds)} seed(s) ({seeds}), in {run.root}"
    for point in grid.points:
        yield f"  {point.arm:<{width}}  {states[point.arm]:<11}  {point.setting}, seed {point.seed}"
    yield from shared(run, works, grid)
    left = [point for point in grid.points if states[point.arm] != "up to date"]
    yield f"at a time: {len(places)}, each on {places[0]}"
    yield f"time: {time_of(run, left, len(places)) if left else 'none, all is up to date'}"


def state_of(run: RunDirectory, works: Sequence[Work], point: Point) -> str:
    mine = own_works(run, works, point.arm)
    due = [work for at, work in enumerate(mine) if is_due(work, mine[at + 1 :])]
    begun = (run.stage(point.arm, "train") / "checkpoints").is_dir()
    return "up to date" if not due else "to evaluate" if len(due) < len(mine) else "begun" if begun else "to do"


def shared(run: RunDirectory, works: Sequence[Work], grid: Grid) -> Iterator[str]:
    """A line for each stage that makes data: how many times it is done, and for how many arms each."""
    for name in dict.fromkeys(work.place for work in works if work.spec.is_data):
        made = [work for work in works if work.place == name]
        due = sum(is_due(work, []) for work in made)
        many = "once for all arms" if len(made) == 1 else f"{len(made)} times for {len(grid.points)} arms"
        yield f"  {name:<{11}} {many}{', up to date' if not due else f', {due} to do' if due < len(made) else ''}"


def time_of(run: RunDirectory, left: Sequence[Point], at_once: int) -> str:
    """About how long the training of these arms takes, and by what; else what would tell."""
    found = seconds_a_step(run)
    steps = [steps_of(run, point.arm) for point in left]
    known = [count for count in steps if count is not None]
    if found is None or len(known) < len(steps):
        return "not known before a step was timed (`tracestill bench RECIPE`) or an arm has finished"
    seconds, where = found
    whole = spell(seconds * sum(known) / at_once)
    return (
        f"about {whole} for {sum(known):,} steps of training at {seconds:.3g} s each ({where}); evaluation comes on top"
    )


def steps_of(run: RunDirectory, arm: str) -> int | None:
    """Steps that an arm is trained for; None where they follow from a plan that is not made."""
    train = run.for_arm(arm).train
    if train.steps is not None:
        return train.steps
    made = read_manifest(run.stage(arm, "plan"))
    return made["steps_per_epoch"] * (train.epochs or 1) if made else None


def seconds_a_step(run: RunDirectory) -> tuple[float, str] | None:
    """Seconds of a step, and where that is from: the run's finished arms, or ``tracestill bench`` of it or of the run
    of its recipe."""
    took, steps = 0.0, 0
    for arm in run.recipe.arm_names():
        train = run.stage(arm, "train")
        made, seconds = read_manifest(train), wall_seconds(train)
        if made is not None and seconds is not None:
            took, steps = took + seconds, steps + made["counts"].get("steps", 0)
    if steps:
        return took / steps, "as the arms that have finished, start included"
    for root in (run.root, Path("runs") / run.recipe.name):
        path = root / "bench" / MAIN_ARM / "bench.json"
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            own = next(case for case in found["cases"] if case["setting"]["name"] == found["own"])
            return float(own["step_seconds"]), str(path)
        except (OSError, ValueError, LookupError, TypeError, StopIteration):
            continue
    return None
