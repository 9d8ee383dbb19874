"""``tracestill bench``: how fast a recipe trains here, which setting is fastest, and how it would go on more nodes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.commands.options import Hosts, OneArmOption, RunDirOption, SetOption

if TYPE_CHECKING:
    from tracestill.trainer.recipe.run_directory import RunDirectory


def bench(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, or the directory of a run.")],
    *,
    run_dir: RunDirOption = None,
    arm: OneArmOption = "traces",
    settings: SetOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1, help="Steps that are timed in each case, at least.")] = 12,
    warmup: Annotated[int, typer.Option("--warmup", min=1, help="Steps before them.")] = 4,
    zero: Annotated[str, typer.Option("--zero", metavar="0,1,2,3", help="ZeRO stages to try.")] = "",
    capacity: Annotated[
        str, typer.Option("--capacity", metavar="N,…", help="Tokens of a micro-step to try. Default: up to 8 x.")
    ] = "",
    recompute: Annotated[
        bool | None,
        typer.Option("--recompute/--no-recompute", help="Compute layers again in backward. Default: try both."),
    ] = None,
    grid: Annotated[bool, typer.Option("--grid", help="Try all combinations, not only uphill.")] = False,
    scaling: Annotated[
        str, typer.Option("--scaling", metavar="1,2,…", help="Then on so many hosts, or ranks of this host.")
    ] = "",
    forecast: Annotated[
        str,
        typer.Option(
            "--forecast", "--foresee", metavar="nodes=1,2,…", help="Then say how it would go on so many nodes."
        ),
    ] = "",
    devices: Annotated[
        int | None, typer.Option("--devices", min=1, help="With --forecast: ranks of a node. Default: as here.")
    ] = None,
    link: Annotated[
        str,
        typer.Option("--link", metavar="GB/s,us", help="With --forecast: a node's bandwidth and latency to others."),
    ] = "",
    hardware: Annotated[
        str, typer.Option("--hardware", metavar="NAME", help="With --forecast, measure nothing: a100, h100 or h200.")
    ] = "",
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there as well.")
    ] = None,
    hosts: Hosts,
) -> None:
    """Time a recipe on this host or on those of a hostfile, find its fastest setting, and forecast larger clusters.

    The training loop itself runs, on the recipe's own data, for a few steps a case; nothing of it is kept. Cases differ
    in ZeRO stage, size of a micro-step and recomputation. Writes bench/<arm>/bench.json and bench.html into the run.

    Example: [cyan]tracestill bench recipes/demo.yaml --scaling 1,2 --forecast nodes=1,2,4,8[/]
    """
    from tracestill.launch.bench import report as bench_report
    from tracestill.launch.bench.bench import Bench, choose_axes, part_of, scale, search
    from tracestill.launch.bench.forecast import Forecast, Student, forecast_nodes, parse_link
    from tracestill.launch.bench.search import own_setting, recommend
    from tracestill.trainer.ranks.console import Terminal

    cluster = hosts.cluster(recipe)
    stages, sizes = numbers("--zero", zero, least=0), numbers("--capacity", capacity)
    counts, nodes = numbers("--scaling", scaling), numbers("--forecast", forecast.removeprefix("nodes="))
    wanted = Forecast(nodes, devices, parse_link(link), hardware)
    if (devices or link or hardware) and not nodes:
        raise InputError("--devices, --link, --hardware: belong to --forecast nodes=1,2,…")
    if hardware and (counts or stages or sizes or grid or recompute is not None):
        raise InputError(
            "--hardware: measures nothing; leave out --scaling, --zero, --capacity, --recompute and --grid"
        )
    if wrong := set(stages) - {0, 1, 2, 3}:
        raise InputError(f"--zero: {min(wrong)} is no ZeRO stage; choose among 0,1,2,3")
    console = Terminal(stderr=True)
    with with_data(recipe, run_dir, settings, arm, console) as run:
        rounds = -(-steps // warmup)  # figures are read once every ``warmup`` steps
        work = Bench(run, arm, cluster, warmup, rounds * warmup, console)
        student = Student.of(work) if nodes else None
        for count in counts:
            part_of(work, count)
        found: dict[str, Any] = {"name": run.recipe.name, "arm": arm}
        if not hardware:
            own = own_setting(run.recipe.for_arm(arm))
            seen = search(work, choose_axes(work, stages, sizes, recompute), whole_grid=grid)
            best, reasons = recommend(own, seen)
            found |= bench_report.gather(work, own, best, reasons, seen)
            bench_report.write(work.folder, found, json_file)  # what follows may fail
            if counts:
                found["scaling"] = scale(work, best, counts)
                bench_report.write(work.folder, found, json_file)
        if student is not None:
            found["forecast"] = forecast_nodes(work, student, found, wanted)
        for path in bench_report.write(work.folder, found, json_file):
            console.print(f"written: {path}", highlight=False, soft_wrap=True)
        bench_report.show(found, Terminal())


@contextlib.contextmanager
def with_data(
    recipe: Path, run_dir: Path | None, settings: list[str] | None, arm: str, console: Console
) -> Iterator[RunDirectory]:
    """The run, with its data up to the arm's plan, which is ours alone meanwhile. A run that is there keeps its recipe:
    what ``settings`` change is for the benchmark alone. Raises InputError if they would change its data."""
    from tracestill.launch.commands.execution import locked, open_run
    from tracestill.launch.run.runner import of_arm, run_stages
    from tracestill.launch.run.stages import plan_works
    from tracestill.trainer.recipe.run_directory import RECIPE, RunDirectory

    asked = open_run(recipe, run_dir, settings)
    if not asked.recipe.for_arm(arm).train.trains:
        raise InputError(f"--arm {arm}: its student is not trained (train: none)")
    due = [work for work in plan_works(asked) if work.spec.is_data and of_arm(asked, work, arm)]
    if (asked.root / RECIPE).exists():
        stale = next((work for work in due if not work.is_current() and work.directory.exists()), None)
        if stale is not None:
            why = f" ({stale.why_redone()})" if stale.why_redone() else ""
            raise InputError(f"{asked.root}: '{stale.label}' is of other settings{why}; choose another --run-dir")
    else:
        RunDirectory.refuse(asked.root, asked.recipe)
    with locked(asked.root, console):
        if not (asked.root / RECIPE).exists():
            RunDirectory.create(asked.root, asked.recipe)
        run_stages(due, console)
        yield asked


def numbers(option: str, text: str, least: int = 1) -> list[int]:
    """The numbers in ``1,2,4``, in increasing order. Raises InputError naming the option."""
    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if not word.isdecimal() or int(word) < least:
            raise InputError(f"{option}: expected whole numbers from {least} on, such as 1,2,4, got '{word}'")
    return sorted({int(word) for word in words})
