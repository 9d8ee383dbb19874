"""A training that goes on, as rank 0 writes it, and the picture that `tracestill watch` makes of a run."""

from __future__ import annotations

import json
import os
from typing import Any

from tracestill.launch.run.now import Now, Telling
from tracestill.launch.watch.run import Seen
from tracestill.launch.watch.show import render
from tracestill.trainer.metrics.headway import PROGRESS
from tracestill.trainer.metrics.log import LOG
from tracestill.trainer.ranks.console import Terminal
from tracestill.trainer.recipe.run_directory import RunDirectory

KINDS = {
    "derive": {"count": 30, "loss": 0.5, "weight": 1.0, "divergence": 0.25},
    "prose": {"count": 9, "loss": 2.0, "weight": 0.0},
}
HELD = {**KINDS, "prompt": {"count": 90, "loss": 9.0, "weight": 0.5}}
LINE = {"epoch": 0, "lr": 1e-3, "grad_norm": 0.7, "kinds": KINDS, "tokens_per_second": 100.0, "seconds": 1.0}


class Ranks:
    """Writes what rank 0 of a training does, where a living command holds the run."""

    def __init__(self, run: RunDirectory, arm: str) -> None:
        self.directory = run.stage(arm, "train")
        self.directory.mkdir(parents=True, exist_ok=True)
        self.telling = Telling(self.directory)
        self.telling.tell(Now("train", "tokens", 0, 0, "", 0.0, None, None))

    def at(self, step: int, **changes: Any) -> None:
        found = {"step": step, "steps": 40, "micro": 0, "accumulation": 2, "tokens": step * 100, "total": 4000}
        more = {"step_seconds": 1.0, "save_seconds": None, "saved": None, "ranks": 2}
        (self.directory / PROGRESS).write_text(json.dumps({**found, **more, **changes}))

    def log(self, **line: Any) -> None:
        with (self.directory / LOG).open("a") as handle:
            handle.write(json.dumps(line) + "\n")


def shown(seen: Seen, width: int = 100, **more: Any) -> str:
    console = Terminal(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(render(seen, width, **more))
    return console.export_text()
