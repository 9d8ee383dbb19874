"""Options that several commands of the command line share, in groups: a command takes a group as one argument."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tracestill.data_pipeline.base.errors import InputError

if TYPE_CHECKING:
    from tracestill.launch.hosts.cluster import Cluster

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, such as recipes/demo.yaml, or the directory of a run.")
]
ArmOption = Annotated[
    str | None, typer.Option("--arm", metavar="NAME", help="Only this student of the run. Default: all arms.")
]
OneArmOption = Annotated[str, typer.Option("--arm", metavar="NAME", help="Which student of the recipe.")]
RunDirOption = Annotated[
    Path | None, typer.Option("--run-dir", metavar="DIR", help="Where the run keeps its files. Default: runs/<name>.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a value of the recipe, such as train.lr=3e-4. Repeatable."),
]
InterfaceOption = Annotated[
    str | None,
    typer.Option("--interface", metavar="NAME", help="Network interface for the ranks. Default: the one ssh uses."),
]


@dataclass(frozen=True)
class Place:
    """Which recipe, and where."""

    recipe: RecipeArgument
    run_dir: RunDirOption = None


@dataclass(frozen=True)
class Changes:
    """What of the recipe is changed."""

    settings: SetOption = None
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Let the run directory take a changed recipe; stages that change are redone."),
    ] = False


@dataclass(frozen=True)
class Others:
    """Who or what is evaluated in place of the arms as the recipe has them."""

    model: Annotated[
        str | None,
        typer.Option("--model", metavar="[NAME=]DIR", help="Any other model, asked in its own form, beside the arms."),
    ] = None
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint", metavar="URL", help="A served model beside the arms, or one of evaluate.endpoints by name."
        ),
    ] = None
    model_name: Annotated[
        str | None, typer.Option("--model-name", metavar="NAME", help="The model, as that server calls it.")
    ] = None
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="VARIABLE", help="The environment variable with its key.")
    ] = None
    lm_eval: Annotated[
        list[str] | None,
        typer.Option(
            "--lm-eval", metavar="TASK", help="A task of lm-evaluation-harness, or its YAML file, on the students."
        ),
    ] = None

    def check(self, arm: str | None) -> None:
        """Raises BadParameter for options that exclude each other."""
        if arm is not None and (self.model or self.endpoint):
            raise typer.BadParameter("a model is no arm of the run; leave out --arm")
        if self.model is not None and self.endpoint is not None:
            raise typer.BadParameter("--model and --endpoint are two models; ask one after the other")
        if self.endpoint is None and (self.model_name or self.key_env):
            raise typer.BadParameter("--model-name and --key-env belong to --endpoint")
        if self.lm_eval and (self.model or self.endpoint):
            raise typer.BadParameter("--lm-eval measures the students of arms; leave out --model and --endpoint")


@dataclass(frozen=True)
class Hosts:
    """On which hosts ranks run, and how they are reached."""

    hostfile: Annotated[
        Path | None,
        typer.Option("--hostfile", metavar="FILE", help="Ranks run on these hosts: a line `host slots=N` each."),
    ] = None
    include: Annotated[
        str, typer.Option("--include", metavar="HOSTS", help="Only these of the hostfile: HOST[:SLOT,...][@HOST...].")
    ] = ""
    exclude: Annotated[str, typer.Option("--exclude", metavar="HOSTS", help="All of the hostfile but these.")] = ""
    launcher: Annotated[
        str,
        typer.Option(
            "--launcher",
            metavar="NAME",
            help="What starts the ranks on the other hosts: pdsh, openmpi, slurm, mpich, impi, my_module:LAUNCHER.",
        ),
    ] = "pdsh"
    interface: InterfaceOption = None
    master_addr: Annotated[
        str | None,
        typer.Option(
            "--master-addr", metavar="IP", help="Address of the first host where ranks meet. Default: found out."
        ),
    ] = None
    master_port: Annotated[
        int | None,
        typer.Option("--master-port", min=1024, max=65535, help="Port where ranks meet. Default: a free one."),
    ] = None
    env: Annotated[
        list[str] | None,
        typer.Option(
            "--env", metavar="NAME[=VALUE]", help="Pass a variable on to the ranks on other hosts. Repeatable."
        ),
    ] = None

    def cluster(self, recipe: Path | None = None, *, elastic: bool = False) -> Cluster | None:
        """The hosts that are meant; None for this one alone. A launcher of the user's own may lie beside the recipe."""
        from tracestill.launch.hosts.cluster import read_cluster
        from tracestill.launch.hosts.launchers import find_launcher

        if ":" in self.launcher:
            say_launcher(self.launcher.partition(":")[0], recipe)
        find_launcher(self.launcher)  # also where no hosts are given
        if self.hostfile is None:
            given = {**vars(self), "hostfile": None, "launcher": None, "elastic": elastic}
            if name := next((name for name, value in given.items() if value), ""):
                raise InputError(f"--{name.replace('_', '-')}: is for the hosts of a hostfile; give --hostfile too")
            return None
        return read_cluster(
            self.hostfile,
            include=self.include,
            exclude=self.exclude,
            launcher=self.launcher,
            address=self.master_addr,
            port=self.master_port,
            interface=self.interface,
            variables=self.env or (),
            elastic=elastic,
        )


def say_launcher(module: str, recipe: Path | None) -> None:
    """Say on stderr whose a launcher's module is, which may lie beside the recipe, before it is imported."""
    from tracestill.data_pipeline.base import own_modules
    from tracestill.trainer.ranks.console import say
    from tracestill.trainer.recipe.recipe import folder_of
    from tracestill.trainer.recipe.run_directory import RECIPE

    if recipe is not None:
        own_modules.search(folder_of(recipe / RECIPE if recipe.is_dir() else recipe))
    if whose := own_modules.whose(module):
        say(f"--launcher imports {module}: {whose}", err=True)


@dataclass(frozen=True)
class Again:
    """What happens after a rank has failed."""

    max_restarts: Annotated[
        int,
        typer.Option(
            "--max-restarts", metavar="N", min=0, help="After a rank failed, go on from the newest checkpoint, N times."
        ),
    ] = 0
    elastic: Annotated[
        bool, typer.Option("--elastic", help="A restart leaves out hosts that no longer answer. With --max-restarts.")
    ] = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose arguments that are groups stand on the command line as the options in them."""
    hints = typing.get_type_hints(command, include_extras=True)
    shown: dict[str, inspect.Parameter] = {}
    groups: dict[str, tuple[Any, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        group = hints[name]
        if not is_dataclass(group):
            shown[name] = parameter.replace(annotation=group, kind=inspect.Parameter.POSITIONAL_OR_KEYWORD)
            continue
        inside = typing.get_type_hints(group, include_extras=True)
        groups[name] = group, [field.name for field in fields(group)]
        for field in fields(group):
            default = inspect.Parameter.empty if field.default is MISSING else field.default
            shown[field.name] = inspect.Parameter(
                field.name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=inside[field.name]
            )

    @functools.wraps(command)
    def flat(**given: Any) -> None:
        made = {name: group(**{key: given.pop(key) for key in keys}) for name, (group, keys) in groups.items()}
        command(**made, **given)

    flat.__signature__ = inspect.Signature(list(shown.values()))  # type: ignore[attr-defined]
    flat.__annotations__ = {name: parameter.annotation for name, parameter in shown.items()}
    return flat
