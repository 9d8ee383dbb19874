"""Runs the stages of a run in order: what is up to date is skipped and says so, the rest is done and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.stage import (
    changed_files,
    edited_name,
    is_current,
    missing_files,
    read_manifest,
    why_redone,
)
from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.run.summary import summary
from tracestill.trainer.recipe.run_directory import STAGES, RunDirectory

WIDTH = 24  # of the column that names stage and arm


@dataclass(frozen=True)
class Work:
    """One directory that a stage has to write, and how."""

    stage: str  # as in STAGES, or tokenizer, which the command `encode` does first
    arm: str | None  # None: all arms share it
    directory: Path
    config: dict[str, Any]
    inputs: dict[str, Path]
    action: Callable[[str, Console], None]  # takes the label
    tidy: Callable[[], str] | None = None  # called when it is up to date; says what it deleted

    @property
    def label(self) -> str:
        return f"{self.stage} {self.arm}" if self.arm else self.stage

    @property
    def position(self) -> int:
        """Place among STAGES."""
        return STAGES.index("encode" if self.stage == "tokenizer" else self.stage)

    def is_current(self) -> bool:
        """Whether its directory holds the finished result for this config and these inputs."""
        if any(read_manifest(path) is None for path in self.inputs.values()):
            return False
        return is_current(self.directory, self.stage, self.config, self.inputs)

    def why_redone(self) -> str:
        """What has changed since it was done, in words; empty if it was not."""
        if any(read_manifest(path) is None for path in self.inputs.values()):
            return ""
        return why_redone(self.directory, self.stage, self.config, self.inputs)


def of_arm(run: RunDirectory, work: Work, arm: str | None) -> bool:
    """Whether a piece of work is one that ``arm`` (None: any) needs, be it shared or its own."""
    return arm is None or work.arm is None or run.stage(arm, work.stage) == work.directory


def stage_position(name: str) -> int:
    """Place of a stage in the order of stages. Raises InputError naming the nearest known stage."""
    if name not in STAGES:
        raise InputError(f"unknown stage '{name}'{nearest(name, STAGES)}")
    return STAGES.index(name)


def run_stages(works: Iterable[Work], console: Console) -> None:
    """Do each piece of work that is not up to date; the report is always written anew."""
    works = list(works)
    for at, work in enumerate(works):
        if not is_due(work, works[at + 1 :]):
            console.print(line(work.label, "up to date, skipped" + remark(work), "dim"), soft_wrap=True)
            continue
        if reason := work.why_redone() if work.stage != "report" else "":
            edited = changed_files(work.directory) if work.stage != "train" else []
            kept = f"; {', '.join(edited)}, changed since, stays in {edited_name(work.directory)}" if edited else ""
            console.print(line(work.label, f"done anew: {reason}{kept}", "dim"), soft_wrap=True)
        started = time.perf_counter()
        try:
            work.action(work.label, console)
        except KeyboardInterrupt as interrupt:
            kept = "every answer so far is kept" if work.stage == "sample" else "the same command does it anew"
            told = str(interrupt) or f"interrupted in {work.label}: {kept}"
            raise KeyboardInterrupt(f"{told}; stages that have finished are kept") from None
        seconds = time.perf_counter() - started
        text = f"{summary(work.stage, work.directory)}  [{seconds:.1f} s]"
        console.print(line(work.label, text.strip(), "green"), soft_wrap=True)
        for warning in (read_manifest(work.directory) or {}).get("warnings", ()):
            console.print(Text(visible(f"warning: {warning}"), "bold yellow"), soft_wrap=True)


def is_due(work: Work, later: list[Work]) -> bool:
    """Whether a piece of work has to be done: it is not up to date, or files of it are missing that later work reads.

    Where nobody needs them, files may have been deleted to make room.
    """
    if work.stage == "report" or not work.is_current():
        return True
    if not missing_files(work.directory):
        return False
    alone = not any(work.position < other.position for other in later)  # it was asked for by name
    readers = [at for at, other in enumerate(later) if work.directory in other.inputs.values()]
    return alone or any(is_due(later[at], later[at + 1 :]) for at in readers)


def remark(work: Work) -> str:
    """What there is to say of work that is up to date: files that were changed after it, and what it tidied up."""
    edited = changed_files(work.directory)
    tidied = work.tidy() if work.tidy is not None else ""
    return (f"; changed since, and read as it is now: {', '.join(edited)}" if edited else "") + tidied


def require_inputs(chosen: list[Work], everything: list[Work], recipe: Path) -> None:
    """Raise InputError naming the first stage that has to run before the chosen work can."""
    own = {work.directory for work in chosen}
    due = {work.directory for at, work in enumerate(chosen) if is_due(work, chosen[at + 1 :])}
    needed: set[Path] = set()
    read: set[Path] = set()  # by what is going to be done: files of others may have been deleted to make room
    for work in reversed(everything):  # stages come in order, so what a stage reads stands before it
        if work.directory not in own | needed:
            continue
        needed |= set(work.inputs.values())
        lacks = work.directory in read and missing_files(work.directory)
        if work.directory in due or (work.directory not in own and (lacks or not work.is_current())):
            due.add(work.directory)
            read |= set(work.inputs.values())
    for work in everything:
        if work.directory in needed - own and work.directory in due:
            reason = work.why_redone()
            state = "is out of date" if read_manifest(work.directory) else "has not run"
            state += f": {reason}" if reason else ""
            command = "encode" if work.stage == "tokenizer" else work.stage
            raise InputError(
                f"{chosen[0].stage}: needs '{work.label}', which {state} ({work.directory}); run "
                f"`tracestill {command} {recipe}` first, or `tracestill run {recipe}` for everything"
            )


def line(label: str, text: str, style: str) -> Text:
    """One line about a piece of work."""
    return Text.assemble((f"{visible(label):<{WIDTH}}", "bold"), (visible(text), style))
