"""A stage as one record, and the work that it has to do in a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.stage import is_current, read_manifest, why_redone
from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.report.parts import Found, listed
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

Identity = tuple[dict[str, Any], dict[str, Path]]  # config and input directories, as data_pipeline.base.stage has them


@dataclass(frozen=True)
class How:
    """How ranks are started, for stages that need them."""

    resume: str = "auto"
    cluster: Cluster | None = None  # None: on this host
    max_restarts: int = 0


@dataclass(frozen=True)
class Case:
    """A stage of one run, for one arm: what a record's functions are asked about."""

    run: RunDirectory
    arm: str
    options: Any = None  # of a stage of one's own, as its ``Options``
    how: How = How()
    before: Sequence[Work] = ()  # what the run's stages before this one write
    part: str = ""  # of a stage with ``parts``

    @property
    def recipe(self) -> Recipe:
        return self.run.for_arm(self.arm)

    def place(self, stage: str) -> Path | None:
        """Where the stage before this one of that name keeps what this arm reads; None if there is none."""
        written = [work.directory for work in self.before]
        shared = self.run.root / stage  # by a stage of one's own for all arms
        return next((path for path in (self.run.stage(self.arm, stage), shared) if path in written), None)

    def reads(self, *stages: str) -> dict[str, Path]:
        """The directories of stages before this one, by their names. Raises InputError for one that is not there."""
        found = {}
        for name in stages:
            if (path := self.place(name)) is None:
                names = list(dict.fromkeys(work.stage for work in self.before))
                raise InputError(f"no stage '{name}' of arm {self.arm} comes before it{nearest(name, names)}")
            found[name] = path
        return found


def counted(manifest: Mapping[str, Any], directory: Path) -> str:
    """The summary of a stage that has no words of its own: its counts."""
    numbers = {name: count for name, count in manifest["counts"].items() if isinstance(count, int)}
    return ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in numbers.items()) + listed(
        "rejected", manifest["counts"].get("rejected", {})
    )


@dataclass(frozen=True)
class StageSpec:
    """All that the program knows of a stage. ``launch/run/stages.py`` holds those that are built in, in their order; a
    recipe names others under ``stages``."""

    name: str
    identity: Callable[[Case], Identity]  # the keys of the recipe that decide what it writes, and what it reads
    do: Callable[[Work, Console], None]  # writes ``work.directory`` by ``data_pipeline.base.stage.stage``
    summary: Callable[[Mapping[str, Any], Path], str] = counted  # one line, of its manifest and directory
    section: Callable[[Found], str] | None = None  # its part of the report, as HTML; None: its summary
    per_arm: bool = True  # False: all arms share one directory
    needed: Callable[[Recipe], bool] = lambda recipe: True  # whether an arm with this recipe has it at all
    parts: Callable[[Recipe], Sequence[str]] = lambda recipe: ("",)  # names of what it does one by one, each a folder
    optional: str = ""  # a recipe may lack it; what it then has to be given
    command: str = ""  # the command that does it, if that is not its name
    redo: str = "the same command does it anew"  # what it costs that it was interrupted
    resumes: bool = False  # it goes on with what lies in its directory
    always: bool = False  # it takes what is there, so it is never up to date
    is_data: bool = False  # it makes what students learn from
    tidy: Callable[[Work], str] | None = None  # called when it is up to date; says what it deleted
    is_unseen: bool = False  # a stage of one's own that was not imported
    Options: type[BaseModel] | None = None  # of a stage of one's own

    @property
    def does_it(self) -> str:
        return self.command or self.name


def place_of(spec: StageSpec, part: str) -> str:
    return f"{spec.name}/{part}" if part else spec.name


@dataclass(frozen=True)
class Work:
    """One directory that a stage has to write."""

    spec: StageSpec
    case: Case
    position: int  # of its stage among the run's
    directory: Path
    arm: str | None  # None: all arms share it
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Path] = field(default_factory=dict)

    @property
    def stage(self) -> str:
        return self.spec.name

    @property
    def label(self) -> str:
        return " ".join(filter(None, (self.stage, self.case.part, self.arm)))

    @property
    def place(self) -> str:
        """The name by which ``RunDirectory.stage`` knows its directory."""
        return place_of(self.spec, self.case.part)

    def is_current(self) -> bool:
        """Whether its directory holds the finished result for this config and these inputs."""
        if any(read_manifest(path) is None for path in self.inputs.values()):
            return False
        return is_current(self.directory, self.stage, self.config, self.inputs)

    def why_redone(self) -> str:
        """What has changed since it was done, in words; empty if it was not."""
        if self.spec.always or any(read_manifest(path) is None for path in self.inputs.values()):
            return ""
        return why_redone(self.directory, self.stage, self.config, self.inputs)

    def summary(self) -> str:
        """One line about what was done; empty if it has not finished."""
        manifest = read_manifest(self.directory)
        return "" if manifest is None else self.spec.summary(manifest, self.directory)
