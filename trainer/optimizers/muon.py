"""Muon: momentum whose matrices are made orthogonal (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon).

Momentum is element by element and lies with each rank's pieces. Its matrices come together on one rank each, which
makes them orthogonal and sends the pieces back: 8 bytes an element and step, whatever the accumulation. DeepSpeed
0.19.8 has a Muon as well: at stage 3 it takes the norm to clip by from orthogonal updates, where it is the gradient's
here, and refuses to reduce gradients by reduce-scatter. torch.optim.Muon takes whole matrices only, which no rank has
from stage 1 on, and computes in bf16 always.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tracestill.trainer.optimizers.groups import MOMENTS, Group, parameter_groups
from tracestill.trainer.optimizers.partition import Exchange, Partitioned, rounds
from tracestill.trainer.recipe.optimizers import MuonOptions
from tracestill.trainer.recipe.settings import TrainConfig

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the polynomial that each iteration applies to the singular values
SMALLEST = 1e-7  # norm of a matrix at least


def make(student: nn.Module, settings: TrainConfig, *, dtype: torch.dtype, **_: Any) -> Muon:
    """Matrices inside of layers (adapters' too) by Muon; embeddings, head, norms and biases by AdamW. ``dtype`` is what
    matrices are made orthogonal in: that of training."""
    options = MuonOptions(**settings.optimizer.options)

    def split(parameter: nn.Parameter, inner: bool) -> Group:
        if not inner:
            return {"moments": MOMENTS, "rate": 1.0}
        return {"moments": ("momentum",), "rate": options.rate}

    groups = parameter_groups(student, settings.weight_decay, split)
    return Muon(groups, options, dtype, {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps})


class Muon(Partitioned):
    def __init__(self, groups: list[Group], options: MuonOptions, dtype: torch.dtype, defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self.options, self.dtype = options, dtype

    def update(self, group: Group, tensor: Tensor, gradient: Tensor, state: dict[str, Any]) -> None:
        rate = group["lr"] * group["rate"]
        if group["moments"] == MOMENTS:
            update = adam_update(group, gradient, state)
        else:
            update = self.muon_update(tensor, gradient, state["momentum"])
        tensor.mul_(1 - rate * group["weight_decay"]).add_(update, alpha=-rate)

    def muon_update(self, tensor: Tensor, gradient: Tensor, momentum: Tensor) -> Tensor:
        """The update of all matrices that ``tensor`` holds pieces of; of elements between them it is 0."""
        share = 1 - self.options.momentum
        momentum.lerp_(gradient, share)
        direction = gradient.lerp(momentum, self.options.momentum) if self.options.nesterov else momentum
        flat, update = direction.reshape(-1), torch.zeros_like(tensor)
        for parts in rounds(self.parts[tensor]):
            exchange = Exchange(parts, self.rank)
            whole = exchange.gather(flat)
            for part, matrix in zip(exchange.mine, whole, strict=True):
                count, rows, columns = part.matrix
                matrices = orthogonal(matrix.view(count, rows, columns).to(self.dtype), self.options.iterations)
                matrix.copy_(matrices.reshape(-1)).mul_(scale_of(rows, columns, self.options.scale))
            exchange.scatter(whole, update.view(-1))
        return update


def adam_update(group: Group, gradient: Tensor, state: dict[str, Any]) -> Tensor:
    """AdamW's, without rate and decay."""
    first, second = group["betas"]
    step = float(state["step"])
    state["exp_avg"].lerp_(gradient, 1 - first)
    state["exp_avg_sq"].mul_(second).addcmul_(gradient, gradient, value=1 - second)
    root = state["exp_avg_sq"].sqrt().div_(math.sqrt(1 - second**step)).add_(group["eps"])
    return state["exp_avg"].div(root).div_(1 - first**step)


def orthogonal(
    matrices: Tensor,  # (count, rows, columns)
    iterations: int,
) -> Tensor:
    """Matrices of the same singular vectors, whose singular values lie around 1 (0.7 to 1.2)."""
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST)
    a, b, c = COEFFICIENTS
    for _ in range(iterations):
        square = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def scale_of(rows: int, columns: int, kind: str) -> float:
    return 0.2 * math.sqrt(max(rows, columns)) if kind == "match_rms_adamw" else math.sqrt(max(1.0, rows / columns))
