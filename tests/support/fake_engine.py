"""Enough of an engine for ``checkpoint.save`` and ``load`` in the test's own process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tracestill.trainer.engine import zero


def fake_engine(value: float = 1.0, width: int = 4) -> Any:
    """Enough of an engine for ``save`` and ``load`` in this process."""
    module = nn.Linear(width, 2)
    nn.init.constant_(module.weight, value)
    module.register_buffer("seen", torch.tensor(value))
    module.register_buffer("scratch", torch.tensor(value), persistent=False)
    optimizer = torch.optim.AdamW(module.parameters())
    inner = SimpleNamespace(
        module=module,
        optimizer=optimizer,
        basic_optimizer=optimizer,
        zero_optimization_partition_weights=lambda: False,
    )
    zero.set_moments(inner, 5)
    return SimpleNamespace(
        deepspeed=inner,
        module=module,
        optimizer=optimizer,
        ema=None,
        rank=0,
        ranks=1,
        device=torch.device("cpu"),
        seed=0,
    )
