"""Enough of an engine for ``checkpoint.save`` and ``load`` in the test's own process."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from tracestill.trainer.engine import zero


def fake_engine(value: float = 1.0, width: int = 4) -> Any:
    """One rank, whose weight and bias lie in a group each as ZeRO-1 and 2 keep them: their masters are other tensors.
    What it saves is three files."""
    module = nn.Linear(width, 2)
    nn.init.constant_(module.weight, value)
    module.register_buffer("seen", torch.tensor(value))
    module.register_buffer("scratch", torch.tensor(value), persistent=False)
    parameters = [module.weight, module.bias]
    masters = [nn.Parameter(parameter.detach().clone().view(-1)) for parameter in parameters]
    for parameter in parameters:
        at = SimpleNamespace(start=0, numel=parameter.numel())
        parameter._hp_mapping = SimpleNamespace(hp_fragment_address=at, lp_fragment_address=at)

    @torch.no_grad()
    def update_lp_params() -> None:
        for parameter, master in zip(parameters, masters, strict=True):
            if parameter.requires_grad:
                parameter.view(-1).copy_(master)

    optimizer = torch.optim.AdamW([{"params": [master]} for master in masters])
    partitions = SimpleNamespace(
        single_partition_of_fp32_groups=masters,
        bit16_groups=[[parameter] for parameter in parameters],
        update_lp_params=update_lp_params,
    )
    inner = SimpleNamespace(
        module=module,
        optimizer=partitions,
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
