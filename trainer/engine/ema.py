"""An exponential moving average of a student's parameters, in fp32: after every update, a <- d * a + (1 - d) * p.

It begins with the parameters that training begins with, so after n updates these still weigh d to the power of n. The
arithmetic is torch's (``torch.optim.swa_utils.get_ema_multi_avg_fn``); a frozen parameter is not averaged.

Every rank averages the fp32 tensors that its own optimizer updates, so the average is sharded as they are and costs
no communication: 4 bytes a trainable parameter, divided by the ranks from ZeRO-1 on.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tracestill.trainer.engine import zero


class Ema:
    """The average, kept beside the engine's master parameters."""

    def __init__(self, engine: Any, decay: float) -> None:
        """``engine`` is DeepSpeed's; ``decay`` the d above."""
        self.engine = engine
        self.average = get_ema_multi_avg_fn(decay)
        self.values = [master.detach().float().clone() for master in zero.flat_masters(engine)]

    def update(self) -> None:
        """Take the parameters after an update into the average."""
        self.average(self.values, [master.detach() for master in zero.flat_masters(self.engine)], 1)

    def of(self, piece: zero.Piece) -> Tensor:
        """(n,) view of the average of this rank's piece of a parameter that is not frozen."""
        masters = zero.flat_masters(self.engine)
        at = next(index for index, master in enumerate(masters) if master is piece.key)
        return self.values[at].view(-1).narrow(0, piece.offset, len(piece.value))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Meanwhile the student computes with the average; afterwards every bit is as it was. Called on every rank."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        for master, value in zip(zero.flat_masters(self.engine), self.values, strict=True):
            held = master.detach().clone()
            master.copy_(value)
            value.copy_(held)
        zero.refresh(self.engine)
