"""Lion: the sign of an average of gradients (Chen et al. 2023, arXiv:2302.06675), element by element.

torch has none, and DeepSpeed's has to be compiled.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from tracestill.trainer.optimizers.groups import Group, parameter_groups
from tracestill.trainer.optimizers.partition import Partitioned
from tracestill.trainer.recipe.optimizers import LionOptions
from tracestill.trainer.recipe.settings import TrainConfig


def make(student: nn.Module, settings: TrainConfig, **_: Any) -> Lion:
    groups = parameter_groups(student, settings.weight_decay, lambda parameter, inner: {"moments": ("exp_avg",)})
    return Lion(groups, {"lr": settings.lr, "betas": LionOptions(**settings.optimizer.options).betas})


class Lion(Partitioned):
    def update(self, group: Group, tensor: Tensor, gradient: Tensor, state: dict[str, Any]) -> None:
        """u = sign(b1 m + (1 - b1) g); p <- (1 - lr decay) p - lr u; m <- b2 m + (1 - b2) g."""
        first, second = group["betas"]
        update = state["exp_avg"].lerp(gradient, 1 - first).sign_()
        tensor.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])
        state["exp_avg"].lerp_(gradient, 1 - second)
