"""Which rank holds the others up, and in which phase: seconds of all ranks side by side, once a line of the log.

Compared are only phases in which a rank waits for nobody: making its data ready, and the forward pass, unless it
gathers parameters (ZeRO-3) or exchanges heads (sequence parallelism). The host of a GPU runs ahead of it and sees
the first of them only.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from tracestill.trainer.ranks.collectives import wire
from tracestill.trainer.ranks.heartbeat import PHASES
from tracestill.trainer.recipe.settings import TrainConfig

MORE = 1.5  # times the median of all ranks
SHARE = 0.05  # of the time between two lines of the log


def straggler(seconds: dict[str, float], phases: tuple[str, ...]) -> dict[str, Any] | None:
    """The rank and the phase that cost the others most since the last call, or None if nothing stands out.

    ``seconds`` are this rank's by phase (``Watchdog.take_seconds``). Called on every rank.
    """
    own = torch.tensor([seconds[name] for name in PHASES], dtype=torch.float64, device=wire())
    received = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(received, own)
    table = torch.stack(received).cpu()  # (ranks, phases)
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


def phases_alone(settings: TrainConfig, device: torch.device) -> tuple[str, ...]:
    """The phases in which a rank waits for nobody else, and whose time its host sees."""
    alone = settings.zero < 3 and settings.sequence_parallel == 1 and device.type == "cpu"
    return ("data", "forward") if alone else ("data",)
