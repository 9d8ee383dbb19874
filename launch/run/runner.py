"""Runs the stages of a run in order: what is up to date is skipped and says so, the rest is done and counted."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import changed_files, edited_name, missing_files, read_manifest
from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.run.progress import line
from tracestill.launch.run.stage_spec import Work
from tracestill.launch.run.stages import command_for
from tracestill.trainer.recipe.run_directory import RunDirectory


def of_arm(run: RunDirectory, work: Work, arm: str | None) -> bool:
    """Whether a piece of work is one that ``arm`` (None: any) needs, be it shared or its own."""
    return arm is None or work.arm is None or run.stage(arm, work.place) == work.directory


def run_stages(works: Iterable[Work], console: Console) -> None:
    """Do each piece of work that is not up to date; the report is always written anew."""
    works = list(works)
    for at, work in enumerate(works):
        if not is_due(work, works[at + 1 :]):
            console.print(line(work.label, "up to date, skipped" + remark(work), "dim"), soft_wrap=True)
            continue
        if reason := work.why_redone():
            edited = [] if work.spec.resumes else changed_files(work.directory)
            kept = f"; {', '.join(edited)}, changed since, stays in {edited_name(work.directory)}" if edited else ""
            console.print(line(work.label, f"done anew: {reason}{kept}", "dim"), soft_wrap=True)
        started = time.perf_counter()
        try:
            work.spec.do(work, console)
        except KeyboardInterrupt as interrupt:
            told = str(interrupt) or f"interrupted in {work.label}: {work.spec.redo}"
            raise KeyboardInterrupt(f"{told}; stages that have finished are kept") from None
        seconds = time.perf_counter() - started
        text = f"{work.summary()}  [{seconds:.1f} s]"
        console.print(line(work.label, text.strip(), "green"), soft_wrap=True)
        for warning in (read_manifest(work.directory) or {}).get("warnings", ()):
            console.print(Text(visible(f"warning: {warning}"), "bold yellow"), soft_wrap=True)


def is_due(work: Work, later: list[Work]) -> bool:
    """Whether a piece of work has to be done: it is not up to date, or files of it are missing that later work reads.

    Where nobody needs them, files may have been deleted to make room.
    """
    if work.spec.always or not work.is_current():
        return True
    if not missing_files(work.directory):
        return False
    alone = not any(work.position < other.position for other in later)  # it was asked for by name
    readers = [at for at, other in enumerate(later) if work.directory in other.inputs.values()]
    return alone or any(is_due(later[at], later[at + 1 :]) for at in readers)


def remark(work: Work) -> str:
    """What there is to say of work that is up to date: files that were changed after it, and what it tidied up."""
    edited = changed_files(work.directory)
    tidied = work.spec.tidy(work) if work.spec.tidy is not None else ""
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
            raise InputError(
                f"{chosen[0].stage}: needs '{work.label}', which {state} ({work.directory}); run "
                f"`{command_for(work.spec.does_it, recipe)}` first, or `tracestill run {recipe}` for everything"
            )
