"""Commands about clusters: ``doctor`` looks one over, ``slurm`` and ``kubernetes`` write what their schedulers run."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from tracestill.launch.commands.options import Hosts, InterfaceOption, OneArmOption, RunDirOption


def doctor(
    *,
    run_dir: Annotated[
        Path,
        typer.Option("--run-dir", metavar="DIR", help="What all hosts share, or a run that each has a copy of."),
    ] = Path("."),
    hosts: Hosts,
) -> None:
    """Look over this host, or those of a hostfile, before anything is allocated. Exit code 1 if something is red.

    Example: [cyan]tracestill doctor --hostfile hosts --run-dir /shared/runs[/]
    """
    from tracestill.launch.commands.execution import looking
    from tracestill.launch.start.doctor import run_doctor, this_host
    from tracestill.trainer.ranks.console import Terminal

    cluster = hosts.cluster()
    with looking():
        good = run_doctor(cluster or this_host(), run_dir, Terminal())
    if not good:
        raise typer.Exit(1)


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/demo.yaml.")]
NodesOption = Annotated[int, typer.Option("--nodes", min=1, help="How many nodes.")]
GpusOption = Annotated[int, typer.Option("--gpus", min=0, help="GPUs of each node, one rank each; 0: train on CPUs.")]
RanksOption = Annotated[int | None, typer.Option("--ranks", min=1, help="Ranks of each node. Default: one a GPU.")]
CpusOption = Annotated[
    int | None,
    typer.Option("--cpus", min=1, help="CPU cores of each rank. Default: what the scheduler gives; without GPUs 1."),
]
OutputOption = Annotated[
    Path | None, typer.Option("--output", metavar="FILE", help="What to write; it must not exist yet.")
]


def slurm(
    recipe: RecipeFile,
    nodes: NodesOption,
    gpus: GpusOption,
    time: Annotated[str, typer.Option("--time", help="Limit of the job: 24h, or 1-00:00:00.")],
    ranks: RanksOption = None,
    cpus: CpusOption = None,
    run_dir: RunDirOption = None,
    interface: InterfaceOption = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", metavar="--NAME=VALUE", help="Pass on to sbatch. Repeatable.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Write a batch script for Slurm that trains a recipe and goes back into the queue until it is done.

    Example: [cyan]tracestill slurm recipes/demo.yaml --nodes 4 --gpus 8 --time 24h --option=--partition=a100[/]
    """
    from tracestill.launch.commands.execution import looking
    from tracestill.launch.schedulers.sbatch import Job, batch_script
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.recipe import load_recipe

    job = Job(nodes, gpus, time, ranks, interface, tuple(option or ()), cpus=cpus)
    with looking():
        loaded = load_recipe(recipe)
        file = output or Path(f"{loaded.name}.sbatch")
        script = batch_script(loaded, recipe, run_dir or Path("runs") / loaded.name, job, file)
    write_new(file, script)
    say(f"next: sbatch {file}")


class Operator(str, Enum):
    """Which of Kubeflow's operators runs a job."""

    pytorchjob = "pytorchjob"
    mpijob = "mpijob"


def kubernetes(
    recipe: RecipeFile,
    nodes: NodesOption,
    gpus: GpusOption,
    image: Annotated[str, typer.Option("--image", help="Container image that holds tracestill.")],
    claim: Annotated[str, typer.Option("--claim", help="PersistentVolumeClaim that all pods can write to.")],
    ranks: RanksOption = None,
    cpus: CpusOption = None,
    arm: OneArmOption = "traces",
    mount: Annotated[str, typer.Option("--mount", metavar="DIR", help="Where pods see the claim.")] = "/runs",
    kind: Annotated[
        Operator, typer.Option("--kind", help="pytorchjob: for the training operator; mpijob: for the MPI operator.")
    ] = Operator.pytorchjob,
    output: OutputOption = None,
) -> None:
    """Write a manifest for Kubernetes: a PyTorchJob or an MPIJob, which Kubeflow's operators run.

    Example: [cyan]tracestill kubernetes recipes/demo.yaml --nodes 2 --gpus 8 --image IMAGE --claim runs[/]
    """
    from tracestill.launch.commands.execution import looking
    from tracestill.launch.schedulers import mpijob, pytorchjob
    from tracestill.launch.schedulers.pods import Pods
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.recipe import load_recipe

    pods = Pods(nodes, gpus, image, claim, ranks, mount, cpus=cpus)
    makers = {Operator.pytorchjob: pytorchjob.manifest, Operator.mpijob: mpijob.manifest}
    with looking():
        loaded = load_recipe(recipe)
        file = output or Path(f"{loaded.name}-{arm}.yaml")
        manifest = makers[kind](loaded, arm, pods)
    write_new(file, manifest)
    say(f"next: kubectl apply -f {file}")


def write_new(path: Path, text: str) -> None:
    """Write a file. Raises InputError if it exists, since it may have been edited."""
    from tracestill.data_pipeline.base.errors import InputError
    from tracestill.data_pipeline.base.room import needs_room

    try:
        with needs_room(path, "nothing was written"), path.open("x", encoding="utf-8") as handle:
            try:
                handle.write(text)
                handle.flush()
            except OSError:
                path.unlink()
                raise
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; choose another --output, or delete it") from error
