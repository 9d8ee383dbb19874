"""Which rank holds the others up, and in which phase: seconds of all ranks side by side, once a line of the log.

Compared are only phases in which a rank waits for nobody: making its data ready, and the forward pass, unless it
gathers parameters (ZeRO-3) or exchanges heads (sequence parallelism). The host of a GPU runs ahead of it and sees
the first of them only.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist

from tracestill.trainer.ranks.collectives import exchange
from tracestill.trainer.ranks.phases import PHASES, Phase
from tracestill.trainer.recipe.settings import TrainConfig

MORE = 1.5  # times the median of all ranks
SHARE = 0.05  # of the time between two lines of the log


class Stragglers:
    """Hears of this rank's phases (``Phases.subscribe``), and adds up the time that each takes."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.current: Phase = "start"
        self.since = time.monotonic()

    def phase(self, name: Phase, step: int) -> None:
        now = time.monotonic()
        self.seconds[self.current] += now - self.since
        self.current, self.since = name, now

    def take(self) -> dict[Phase, float]:
        """Phase -> seconds that this rank spent in it since the last call."""
        found, self.seconds = self.seconds, dict.fromkeys(PHASES, 0.0)
        return found

    def find(self, phases: Sequence[Phase]) -> dict[str, Any] | None:
        """The rank and the phase, one of ``phases``, that cost the others most since the last call, or None if nothing
        stands out. Called on every rank."""
        seconds = self.take()
        if dist.get_world_size() == 1:
            return None
        own = torch.tensor([seconds[name] for name in PHASES], dtype=torch.float64)
        return straggler(torch.stack(exchange(own)), phases)


def straggler(table: torch.Tensor, phases: Sequence[Phase]) -> dict[str, Any] | None:
    """What ``Stragglers.find`` returns, by the seconds of all ranks, (ranks, PHASES)."""
    middle = table.quantile(0.5, dim=0)  # of two ranks: between them
    found: dict[str, Any] | None = None
    worst = SHARE * float(table.sum(dim=1).max())
    for name in phases:
        column = table[:, PHASES.index(name)]
        most, rank = float(column.max()), int(column.argmax())
        usual = float(middle[PHASES.index(name)]) if len(column) > 2 else float(column.min())
        if most > MORE * usual and most - usual > worst:
            worst = most - usual
            found = {"rank": rank, "phase": name, "seconds": round(most, 3), "usual": round(usual, 3)}
    return found


def phases_alone(settings: TrainConfig, device: torch.device) -> tuple[Phase, ...]:
    """The phases in which a rank waits for nobody else, and whose time its host sees."""
    alone = settings.zero != 3 and settings.sequence_parallel == 1 and device.type == "cpu"
    return ("data", "forward") if alone else ("data",)
