"""AdamW, by torch: element by element, so that it does not notice how parameters are cut."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tracestill.trainer.optimizers.groups import parameter_groups
from tracestill.trainer.recipe.settings import TrainConfig


def make(student: nn.Module, settings: TrainConfig, **_: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameter_groups(student, settings.weight_decay),
        lr=settings.lr,
        betas=settings.betas,
        eps=settings.eps,
        fused=True,
    )
