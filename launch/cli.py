"""The command line ``tracestill``. Imports little, so that --help answers at once; commands import what they need."""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Annotated, Literal

import typer

from tracestill.launch.commands import (
    bench_command,
    cluster_commands,
    fetch_command,
    report_command,
    rounds_command,
    segmenter_command,
    sweep_command,
    watch_command,
    yield_command,
)
from tracestill.launch.commands.decontaminate import DecontaminateOption, with_benchmarks
from tracestill.launch.commands.execution import (
    default_root,
    evaluate_endpoint,
    evaluate_model,
    evaluate_tasks,
    execute,
    looking,
    open_run,
    single,
)
from tracestill.launch.commands.guarded import Guarded
from tracestill.launch.commands.init import init_command
from tracestill.launch.commands.options import Again, ArmOption, Changes, Hosts, Others, Place, SetOption, grouped

EPILOG = """
[bold]A first run[/]   [cyan]tracestill run recipes/demo.yaml[/]   then open   [cyan]runs/demo/report/report.html[/]

[bold]Change a value[/]   [cyan]tracestill run recipes/demo.yaml --run-dir runs/hot --set sample.temperatures=[1.3][/]

[bold]Several hosts[/]   [cyan]tracestill doctor --hostfile hosts[/], then [cyan]train runs/demo --hostfile hosts[/]

[bold]Exit codes[/]   0 done, 2 bad input, 3 stopped as asked (saved), 4 a rank failed, 5 disk full, 130 Ctrl-C twice
"""


app = typer.Typer(
    name="tracestill",
    cls=Guarded,
    help="""Distils reasoning traces into small students.

A [bold]recipe[/] (YAML) says everything a run does. A run passes through up to eight [bold]stages[/]. Each writes one
directory of the run, and is skipped while its config and inputs are unchanged:

sample → select → encode → score → plan → train → evaluate → report""",
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    add_completion=False,
)


def command(panel: str, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function a command, shown in this panel of the help; the groups among its arguments become options."""
    return lambda function: app.command(name, rich_help_panel=panel)(grouped(function))


def show_version(wanted: bool) -> None:
    if wanted:
        import importlib.metadata

        typer.echo(f"tracestill {importlib.metadata.version('tracestill')}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


command("Whole runs")(init_command.init)


@command("Whole runs", "run")
def run_command(
    place: Place,
    *,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="The last stage to run.")] = "report",
    changes: Changes,
    decontaminate: DecontaminateOption = None,
    hosts: Hosts,
    again: Again,
) -> None:
    """Run all stages of a recipe, for all its arms.

    Stages that are up to date are skipped. Interrupt it when you like: the same command goes on where it stopped.

    Example: [cyan]tracestill run recipes/demo.yaml --until plan[/], then [cyan]tracestill inspect runs/demo[/]
    """
    cluster = hosts.cluster(place.recipe, elastic=again.elastic)
    changes = with_benchmarks(changes, decontaminate)
    execute(place, changes, first="sample", last=until, cluster=cluster, max_restarts=again.max_restarts)


command("Whole runs")(rounds_command.rounds)


@command("Single stages")
def sample(
    place: Place,
    *,
    changes: Changes,
    decontaminate: DecontaminateOption = None,
    recover: Annotated[
        bool, typer.Option("--recover", help="Make a damaged journal anew, first, from what can be read of it.")
    ] = False,
) -> None:
    """Pose the questions and ask the teachers for traces.

    Every answer is journaled at once: after an interrupt only missing ones are asked. Next: [cyan]select[/].
    """
    single("sample", place, with_benchmarks(changes, decontaminate), recover=recover)


@command("Single stages")
def select(place: Place, *, arm: ArmOption = None, changes: Changes) -> None:
    """Keep the traces worth imitating; count the rejected by reason. Next: [cyan]encode[/]."""
    single("select", place, changes, arm)


@command("Single stages")
def encode(place: Place, *, arm: ArmOption = None, changes: Changes) -> None:
    """Make the tokenizer, and turn records into tokens with a span kind each.

    Under mpirun, ranks on all hosts share the work. Next: [cyan]plan[/]; [cyan]inspect[/] shows the documents.
    """
    from tracestill.launch.start.mpi_rank import is_rank

    if not is_rank():
        return single("encode", place, changes, arm)
    from tracestill.launch.start.mpi_encode import by_ranks

    return by_ranks(lambda: single("encode", place, changes, arm))


@command("Single stages")
def score(place: Place, *, arm: ArmOption = None, changes: Changes, hosts: Hosts, again: Again) -> None:
    """Let models read the documents: nll, rank, top-k of every token, kept beside the tokens.

    For recipes with a block [bold]score[/]. On this host or on those of a hostfile. Interrupt it when you like: what is
    written stays, and the same command goes on, on any number of ranks. Next: [cyan]plan[/].

    Example: [cyan]tracestill score runs/demo --set train.ranks=4 --max-restarts 3[/]
    """
    cluster = hosts.cluster(place.recipe, elastic=again.elastic)
    from tracestill.launch.start.mpi_rank import is_rank

    if cluster is None and is_rank():
        raise typer.BadParameter("score starts its own ranks; leave out mpirun, or give --hostfile and --launcher")
    single("score", place, changes, arm, cluster=cluster, max_restarts=again.max_restarts)


@command("Single stages")
def plan(place: Place, *, arm: ArmOption = None, changes: Changes) -> None:
    """Decide which documents share a pack, and which packs form a step.

    Next: [cyan]train[/]; [cyan]inspect[/] shows the plan's statistics.
    """
    single("plan", place, changes, arm)


@command("Single stages")
def train(
    place: Place,
    *,
    arm: ArmOption = None,
    changes: Changes,
    resume: Annotated[
        Literal["auto", "must"],
        typer.Option("--resume", help="Go on from the newest checkpoint; auto: begin anew if there is none."),
    ] = "auto",
    hosts: Hosts,
    again: Again,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would run, on which host, with which environment.")
    ] = False,
) -> None:
    """Train the students with DeepSpeed, on this host or on those of a hostfile.

    Everything the ranks print is kept in train/console.log. On Ctrl-C or SIGTERM, and after train.stop_after, it saves
    and ends with exit code 3; the same command goes on. A second Ctrl-C ends it at once. Under mpirun or srun it is one
    of the ranks. Next: [cyan]evaluate[/].

    Example: [cyan]tracestill train runs/demo --arm traces --set train.stop_after=55m --max-restarts 3[/]
    """
    cluster = hosts.cluster(place.recipe, elastic=again.elastic)
    from tracestill.launch.start.mpi_rank import is_rank, train_mpi_rank

    if cluster is None and is_rank():
        if again.max_restarts:
            raise typer.BadParameter("ranks that mpirun started do not start each other again; leave it out")
        asked = open_run(place.recipe, place.run_dir, changes.settings)
        train_mpi_rank(asked.root, asked.recipe, arm, resume)
    more = {"resume": resume, "cluster": cluster, "dry_run": dry_run, "max_restarts": again.max_restarts}
    with looking() if dry_run else contextlib.nullcontext():
        single("train", place, changes, arm, **more)


@command("Single stages")
def evaluate(
    place: Place,
    *,
    arm: ArmOption = None,
    others: Others,
    changes: Changes,
) -> None:
    """Let the students answer held-out questions; measure the loss of each span kind. Next: [cyan]report[/].

    An arm with [bold]train: none[/] is its student before training. What was written is kept: interrupt it when you
    like, and the same command goes on.

    Example: [cyan]tracestill evaluate runs/demo --endpoint http://localhost:8000/v1 --model-name my-model[/]
    """
    others.check(arm)
    if others.lm_eval:
        evaluate_tasks(place, changes, arm, others.lm_eval)
    elif others.endpoint is not None:
        evaluate_endpoint(place, changes, others.endpoint, others.model_name, others.key_env)
    elif others.model is not None:
        evaluate_model(place, changes, others.model)
    else:
        single("evaluate", place, changes, arm)


command("Single stages")(report_command.report)
for one in (bench_command.bench, cluster_commands.doctor, cluster_commands.slurm, cluster_commands.kubernetes):
    command("Clusters")(one)
command("Whole runs")(sweep_command.sweep)
command("Whole runs", "fetch-student")(fetch_command.fetch_student)
command("Segmentation", "train-segmenter")(segmenter_command.train_segmenter)


@command("Look inside", "inspect")
def inspect_command(
    place: Place,
    *,
    arm: Annotated[str, typer.Option("--arm", metavar="NAME", help="Which student's data.")] = "traces",
    document: Annotated[int, typer.Option("--document", metavar="N", min=0, help="Number of the document.")] = 0,
    documents: Annotated[int, typer.Option("--documents", metavar="N", min=1, help="So many, from it on.")] = 1,
    record: Annotated[str | None, typer.Option("--record", metavar="ID", help="All documents of a record.")] = None,
    text: Annotated[
        bool, typer.Option("--text", help="Plain text in spans with what gave each its kind, in place of tokens.")
    ] = False,
    scores: Annotated[
        bool, typer.Option("--scores", help="A line a token with what models said of it, where score has run.")
    ] = False,
    epoch: Annotated[
        int, typer.Option("--epoch", metavar="N", min=0, help="Its plan, and the weights at its first step.")
    ] = 0,
) -> None:
    """Show documents with their tokens coloured by span kind and their weights, and the plan's statistics.

    Example: [cyan]tracestill inspect runs/demo --document 7 --documents 20 --text[/]
    """
    if text and scores:
        raise typer.BadParameter("--text and --scores show one document in two ways; leave one out")
    if record is not None and (document or documents > 1):
        raise typer.BadParameter("--record shows all documents of its record; leave --document and --documents out")
    from tracestill.launch.look.inspect_run import Shown, inspect_run
    from tracestill.launch.run.stages import show_own_stages
    from tracestill.trainer.ranks.console import Terminal
    from tracestill.trainer.recipe.run_directory import RunDirectory

    with looking():
        known = place.recipe.is_dir()
        root = place.run_dir or (place.recipe if known else default_root(place.recipe))
        run = open_run(place.recipe, root, None) if known else RunDirectory.open(root)
        inspect_run(run, arm, Shown(document, documents, record, text, epoch, scores), Terminal())
        show_own_stages(run, arm, Terminal())


command("Look inside", "watch")(watch_command.watch)
command("Look inside", "yield")(yield_command.show_yield)


@command("Look inside", "recipe")
def recipe_command(
    what: Annotated[
        str | None,
        typer.Argument(metavar="RECIPE", help="A recipe, or the directory of a run; after --keys, a prefix."),
    ] = None,
    keys: Annotated[bool, typer.Option("--keys", help="List all keys, or those below a PREFIX such as train.")] = False,
    resolved: Annotated[
        bool, typer.Option("--resolved", help="Print the recipe with every default written out.")
    ] = False,
    arm: Annotated[
        str | None, typer.Option("--arm", metavar="NAME", help="With --resolved: as this arm has it.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Show which keys a recipe may hold, with type, default and meaning, or what a recipe comes to.

    Example: [cyan]tracestill recipe --keys train.watchdog[/], [cyan]tracestill recipe recipes/demo.yaml --resolved[/]
    """
    from tracestill.trainer.ranks.console import say

    if keys == resolved:
        raise typer.BadParameter("give one of --keys [PREFIX] and --resolved, the latter with a recipe")
    if keys:
        from tracestill.launch.commands.recipe_keys import chosen

        if arm or settings:
            raise typer.BadParameter("--arm and --set belong to --resolved")
        for key in chosen(what or ""):
            say(key.line)
        return
    from tracestill.trainer.recipe.recipe import dump_recipe

    if what is None:
        raise typer.BadParameter("--resolved needs a recipe, or the directory of a run")
    with looking():
        found = open_run(Path(what), None, settings).recipe
        say(dump_recipe(found.for_arm(arm) if arm else found, shown=True), end="")


@command("Look inside", "diff")
def diff_command(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of another one.")],
) -> None:
    """Show what differs between two runs: recipe, data, versions and results.

    Example: [cyan]tracestill diff runs/demo runs/hot[/]
    """
    from tracestill.launch.report.diff_runs import diff_runs, show
    from tracestill.launch.run.stages import compared
    from tracestill.trainer.ranks.console import Terminal
    from tracestill.trainer.recipe.run_directory import RunDirectory

    with looking():
        runs = (RunDirectory.open(first), RunDirectory.open(second))
        found = diff_runs(*runs, *compared(runs[0].recipe))
    show(found, (str(first), str(second)), Terminal())


def terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM unwinds the stack as an interrupt does, so that no rank is left behind."""
    raise SystemExit(128 + number)


def main() -> None:
    signal.signal(signal.SIGTERM, terminate)
    os.environ["PYTHONSAFEPATH"] = "1"  # Python that is started from here does not look into the working directory
    try:
        app(prog_name="tracestill")
    except Exception:  # a fault of ours: the traceback helps, and may quote a URL or a header
        from tracestill.data_pipeline.guards.secret import mask
        from tracestill.trainer.ranks.console import say

        say(mask(traceback.format_exc()), err=True, end="")
        sys.exit(1)


if __name__ == "__main__":
    main()
