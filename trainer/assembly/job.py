"""Everything that one rank needs to train one arm, and how far it has come."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.console import Console

from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import Batches, MicroStep
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.best import Best
from tracestill.trainer.checkpoint.files import CHECKPOINTS
from tracestill.trainer.checkpoint.saver import NoSaver
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.evaluation.held_out import HeldOut
from tracestill.trainer.evaluation.held_out_answers import HeldOutAnswers
from tracestill.trainer.faults.stragglers import Stragglers
from tracestill.trainer.ranks.phases import Phase, Phases
from tracestill.trainer.ranks.placement import Placement
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.weighting import Weighting


@dataclass
class Progress:
    """How far training has come; it goes into checkpoints."""

    step: int = 0  # optimizer steps done
    skips: int = 0  # the last so many of them were left out because something was not finite
    best: Best | None = None  # if the recipe names a metric

    @property
    def over(self) -> bool:
        """Whether waiting for a better measurement has ended."""
        return self.best is not None and self.best.over

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "skips": self.skips, "best": self.best.state() if self.best else None}

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.skips = state["step"], state["skips"]
        if self.best and state["best"]:
            self.best.restore(state["best"])


TextState = Literal["there", "too long", "left"]
"""What became of the texts that a step is to learn from: too long, training ends; left, before they were whole."""


class OwnTexts(Protocol):
    """What the student writes itself, if it learns from that (``trainer.on_policy``)."""

    news: list[dict[str, Any]]  # lines for the log

    def enter(self, step: int, asked: Callable[[], object]) -> TextState: ...
    def ends_with(self, step: int) -> bool: ...
    def corrected(self, micro: Sequence[MicroStep]) -> Sequence[MicroStep]: ...
    def read(self) -> dict[str, Any]: ...
    def state(self) -> dict[str, Any]: ...
    def load_state(self, state: Mapping[str, Any]) -> None: ...
    def summary(self) -> dict[str, Any]: ...


@dataclass
class Job:
    """Everything one rank needs to train one arm."""

    run: RunDirectory
    arm: str
    recipe: Recipe  # with the arm's overrides
    identity: dict[str, Any]  # what decides whether a finished training is current
    directory: Path  # runs/<name>/arms/<arm>/train
    tokenizer: Path
    store: TokenStore
    weighting: Weighting
    batches: Batches
    held_out: HeldOut | None
    answers: HeldOutAnswers | None
    engine: Engine
    steps: int
    console: Console
    progress: Progress
    saver: NoSaver
    placement: Placement | None  # of ranks on hosts that share no file system; None: all share the run directory
    phases: Phases
    stragglers: Stragglers  # hears of the phases
    own_texts: OwnTexts | None = None  # which then has the place of the run's documents in ``batches``

    def phase(self, name: Phase) -> None:
        """Tell whoever listens what this rank does now."""
        self.phases.enter(name, self.progress.step)

    @property
    def measures(self) -> bool:
        """Whether something is measured on held-out documents or questions."""
        return self.held_out is not None or self.answers is not None

    @property
    def leads(self) -> bool:
        """Whether this rank is the first of those that share the train directory."""
        return self.engine.rank == (self.placement.first if self.placement else 0)

    @property
    def threads(self) -> int | None:
        """Threads of each rank on a CPU, which decide how sums are rounded; None on a GPU."""
        return torch.get_num_threads() if self.engine.device.type == "cpu" else None

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS

    def load(self, path: Path) -> dict[str, Any]:
        """Put the engine into the state of a checkpoint; as ``checkpoint.load``."""
        return checkpoint.load(self.engine, path, local=self.placement is not None)
