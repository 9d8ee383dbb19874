"""``tracestill sweep``: a grid of values and seeds over one recipe, and whether what differs is more than chance."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.commands.options import Changes, Place, RecipeArgument

if TYPE_CHECKING:
    from rich.console import Console

    from tracestill.launch.sweep.grid import Grid
    from tracestill.trainer.recipe.recipe import Recipe
    from tracestill.trainer.recipe.run_directory import RunDirectory

MANY = 64  # arms that nobody asks back about
SEEDS = "3"  # how many, if nobody says


def sweep(
    recipe: RecipeArgument,
    *,
    run_dir: Annotated[
        Path | None,
        typer.Option("--run-dir", metavar="DIR", help="Where it keeps its files. Default: runs/<name>-sweep."),
    ] = None,
    over: Annotated[
        list[str] | None,
        typer.Option(
            "--over",
            metavar="KEY=V1,V2,…",
            help="A key of the recipe and its values, in YAML; the key arm: arms of the recipe. Repeatable: a grid.",
        ),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", metavar="N", help="Each setting with so many seeds (3); or which, such as 0,4,9."),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option("--at-once", metavar="N", min=1, help="Arms at a time. Default: what the cores or GPUs hold."),
    ] = None,
    fail_fast: Annotated[
        bool, typer.Option("--fail-fast", help="Stop all after the first arm that fails. Default: the others go on.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the arms, what they share, and about how long it takes.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help=f"Do more than {MANY} arms.")] = False,
    changes: Changes,
) -> None:
    """Train a recipe with each of some values, on several seeds, and compare them.

    Each combination is an arm of one run, runs/<name>-sweep: data that arms share is made once, arms run side by side.
    Interrupt it when you like: the same command goes on, and so does [cyan]tracestill sweep RUN[/]. More values or
    seeds add arms. Writes sweep.json; the report shows it.

    Example: [cyan]tracestill sweep recipes/demo.yaml --over weighting.weights.prose=0,0.3,1 --seeds 3[/]
    """
    from tracestill.launch.commands.execution import looking
    from tracestill.trainer.ranks.console import Terminal, say

    console, place = Terminal(stderr=True), Place(recipe, run_dir)
    if dry_run:
        from tracestill.launch.run.stages import plan_works
        from tracestill.launch.sweep.dry_run import describe
        from tracestill.launch.sweep.machine import places
        from tracestill.launch.sweep.sweep import wanted

        with looking():
            run, grid = asked_for(place, changes, over, seeds)
            say_without_effect(run, grid, console)
            found = places([run.for_arm(point.arm) for point in grid.points], at_once)
            for line in describe(run, wanted(run, plan_works(run), grid), grid, found):
                say(line)
        return
    run, grid = asked_for(place, changes, over, seeds)
    if len(grid.points) > MANY and not yes:
        raise InputError(f"{len(grid.points)} arms, more than {MANY}: look at them with --dry-run, then add --yes")
    code = do(run, grid, console, at_once=at_once, fail_fast=fail_fast, replace=changes.replace)
    if code:
        raise typer.Exit(code)


def asked_for(place: Place, changes: Changes, over: list[str] | None, seeds: str | None) -> tuple[RunDirectory, Grid]:
    """The run and the grid that the arguments mean; nothing is written. A sweep's directory alone means its grid."""
    from tracestill.launch.commands.execution import open_run
    from tracestill.launch.report.sweep_page import SWEEP
    from tracestill.launch.sweep.grid import ARM, axes_of, grown, make_grid, parse_seeds
    from tracestill.launch.sweep.outcome import grid_in
    from tracestill.trainer.recipe.run_directory import RunDirectory

    asked = open_run(place.recipe, place.run_dir, changes.settings)
    known = place.recipe.is_dir()
    root = place.run_dir or (place.recipe if known else Path("runs") / f"{asked.recipe.name}-sweep")
    held = grid_in(root) if known and not over and (root / SWEEP).exists() else None
    if held is not None and seeds is None:
        return RunDirectory(root, asked.recipe), held
    if held is not None and any(axis.key == ARM for axis in held.axes):
        raise InputError("--seeds: this sweep is over arms of its recipe, which its directory lacks; name the recipe")
    axes = axes_of(asked.recipe, over or ()) if held is None else held.axes
    grid, recipe = make_grid(asked.recipe, axes, parse_seeds(seeds or SEEDS, asked.recipe.seed))
    return RunDirectory(root, grown(recipe_in(root), recipe)), grid


def recipe_in(root: Path) -> Recipe | None:
    """The recipe that a run directory holds, none of whose modules is imported; None if there is none."""
    from tracestill.data_pipeline.base import own_modules
    from tracestill.trainer.recipe.recipe import load_recipe
    from tracestill.trainer.recipe.run_directory import RECIPE

    if not (root / RECIPE).exists():
        return None
    folder = own_modules.folder()
    with own_modules.looking():
        held = load_recipe(root / RECIPE, shown=True)
    own_modules.search(folder)
    return held


def do(run: RunDirectory, grid: Grid, console: Console, *, at_once: int | None, fail_fast: bool, replace: bool) -> int:
    """Check all arms, do them, show what came of it; the exit code."""
    from tracestill.launch.commands.execution import claimed
    from tracestill.launch.report.report import read_json
    from tracestill.launch.report.sweep_page import SWEEP
    from tracestill.launch.run.checks import check_works
    from tracestill.launch.run.stages import describe_end, plan_works
    from tracestill.launch.sweep import outcome
    from tracestill.launch.sweep.machine import places
    from tracestill.launch.sweep.sweep import Sweep
    from tracestill.trainer.ranks.console import Terminal

    held = recipe_in(run.root)
    arms = run.recipe.arms if held is None else held.arms  # new arms alone are no other recipe
    type(run).refuse(run.root, run.recipe.model_copy(update={"arms": arms}), replace=replace)
    recipes = [run.for_arm(point.arm) for point in grid.points]
    found = places(recipes, at_once) if at_once else []  # what has no room is refused before all else
    works = plan_works(run)
    swept = Sweep(run, works, grid, console)
    say_without_effect(run, grid, console)
    check_works(run, swept.works, console)
    found = found or places(recipes, None)
    console.print(f"{len(grid.points)} arms, {len(found)} at a time, each on {found[0]}", soft_wrap=True)
    with claimed(run, console, replace=replace or held is not None):
        code = swept.do(found, fail_fast=fail_fast)
        outcome.show(read_json(run.root / SWEEP), Terminal())
        for arm, reason in swept.failed.items():
            console.print(f"failed: {arm}: {reason}", style="red", soft_wrap=True)
        describe_end(run, works, console)
    return code


def say_without_effect(run: RunDirectory, grid: Grid, console: Console) -> None:
    """Warn of keys that make no difference to what an arm reads."""
    from tracestill.launch.run.checks import warn
    from tracestill.launch.sweep.grid import without_effect
    from tracestill.launch.sweep.sweep import what_decides

    for text in without_effect(grid, what_decides(run, grid.points)):
        warn(f"--over {text}", console)
