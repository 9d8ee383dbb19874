"""Data and our loss as the benchmarks of `linear_cross_entropy` on a CPU and on a GPU both use them."""

from __future__ import annotations

import statistics

import torch
from linear_cross_entropy_peers import Loss
from torch import Tensor

from tracestill.kernels.loss import linear_cross_entropy

KINDS = 8
CHUNK = 1024
Data = tuple[Tensor, Tensor, Tensor, Tensor]


def inputs(shape: tuple[int, int, int], zero: float, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Data:
    """Hidden states, head, targets, weights; a share `zero` of the rows, at random places, weighs nothing."""
    rows, width, vocabulary = shape
    how = {"generator": torch.Generator(device).manual_seed(0), "device": device}  # half a billion numbers: there
    hidden = torch.randn(rows, width, **how)
    weight = torch.randn(vocabulary, width, **how) / width**0.5
    targets = torch.randint(0, vocabulary, (rows,), **how)
    weights = torch.rand(rows, **how) + 0.1
    weights[torch.randperm(rows, **how)[: int(rows * zero)]] = 0
    return hidden.to(dtype), weight.to(dtype), targets, weights


def ours(weights: Tensor, chunk: int | None = CHUNK) -> Loss:
    """Our loss with kinds and, as in training, the index of weighted rows made beforehand."""
    kinds = (torch.arange(len(weights), device=weights.device) % KINDS).to(torch.uint8)
    active = weights.nonzero().squeeze(1)

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return linear_cross_entropy(
            hidden, weight, targets, weights, kinds, num_kinds=KINDS, active=active, chunk_rows=chunk
        )[0]

    return loss


def ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median over turns of one time divided by another of the same turn."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
