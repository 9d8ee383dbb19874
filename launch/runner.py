"""Runs the stages of a run in order: what is up to date is skipped and says so, the rest is done and counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.kinds import nearest
from tracestill.data_pipeline.stage import is_current, read_manifest
from tracestill.launch.summary import summary
from tracestill.trainer.run_directory import STAGES

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


def stage_position(name: str) -> int:
    """Place of a stage in the order of stages. Raises InputError naming the nearest known stage."""
    if name not in STAGES:
        raise InputError(f"unknown stage '{name}'{nearest(name, STAGES)}")
    return STAGES.index(name)


def run_stages(works: Iterable[Work], console: Console) -> None:
    """Do each piece of work that is not up to date; the report is always written anew."""
    for work in works:
        if work.stage != "report" and work.is_current():
            console.print(line(work.label, "up to date, skipped", "dim"), soft_wrap=True)
            continue
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
            console.print(Text(f"warning: {warning}", "bold yellow"), soft_wrap=True)


def require_inputs(chosen: list[Work], everything: list[Work], recipe: Path) -> None:
    """Raise InputError naming the first stage that has to run before the chosen work can."""
    own = {work.directory for work in chosen}
    needed: set[Path] = set()
    for work in reversed(everything):  # stages come in order, so what a stage reads stands before it
        if work.directory in own or work.directory in needed:
            needed |= set(work.inputs.values())
    for work in everything:
        if work.directory in needed - own and not work.is_current():
            state = "is out of date" if read_manifest(work.directory) else "has not run"
            command = "encode" if work.stage == "tokenizer" else work.stage
            raise InputError(
                f"{chosen[0].stage}: needs '{work.label}', which {state} ({work.directory}); run "
                f"`tracestill {command} {recipe}` first, or `tracestill run {recipe}` for everything"
            )


def line(label: str, text: str, style: str) -> Text:
    """One line about a piece of work."""
    return Text.assemble((f"{label:<{WIDTH}}", "bold"), (text, style))
