"""Other ways to the same loss, each a function (hidden, weight, targets, weights) -> scalar with a graph.

`peers` lists those that can run here and says of the others why not. Peers without weights by token compute the sum
over the rows that have one (`weighted: false` in the results): less work than ours, never more.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
UNWEIGHTED = ("liger", "torch", "quack")


def naive(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """All logits at once; nothing keeps them once the softmax is taken."""
    return (F.cross_entropy(F.linear(hidden, weight).float(), targets, reduction="none") * weights).sum()


def torch_chunked(rows: int) -> Loss:
    """torch.nn.functional.linear_cross_entropy, `rows` rows at a time."""

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=rows)
        return F.linear_cross_entropy(hidden, weight, targets, reduction="sum", options=options)

    return loss


def selected(dense: Loss) -> Loss:
    """The honest rival: gather the weighted rows, then the dense loss."""

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        rows = weights.nonzero().squeeze(1)
        return dense(hidden[rows], weight, targets[rows], weights[rows])

    return loss


def liger() -> Loss:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    module = LigerFusedLinearCrossEntropyLoss(reduction="sum", ignore_index=-100)

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return module(weight, hidden, targets.masked_fill(weights == 0, -100))

    return loss


def cut_cross_entropy() -> Loss:
    from cut_cross_entropy import linear_cross_entropy as cce

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        ignored = targets.masked_fill(weights == 0, -100)
        return (cce(hidden, weight, ignored, ignore_index=-100, reduction="none") * weights).sum()

    return loss


def quack() -> Loss:
    """QuACK's fused head (0.6). It knows targets to ignore and no weights, and says nothing of single rows."""
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        return chunked_linear_cross_entropy(hidden, weight, targets.masked_fill(weights == 0, -100), reduction="sum")

    return loss


def trl_chunked() -> Loss:
    """TRL's chunked log-probabilities (1.16), with the statistics that its trainer asks for, on the weighted rows."""
    from trl.kernels.chunked_logprob import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as size

    def loss(hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        rows = weights != 0
        asked = ("entropy", "is_top1")
        found = ChunkedLogProbFunction.apply(hidden[rows], weight, None, targets[rows], 1.0, size, None, 1.0, asked)
        return -(found[0].float() * weights[rows]).sum()

    return loss


def peers(device: torch.device) -> tuple[dict[str, Loss], dict[str, str]]:
    """Losses that run here by name, and why the others do not."""
    found: dict[str, Loss] = {"naive": naive}
    absent: dict[str, str] = {}
    if device.type == "cuda":
        found["compiled naive"] = torch.compile(naive, dynamic=False)
    else:
        absent["compiled naive"] = "measured on a GPU only"
    if hasattr(torch.nn, "LinearCrossEntropyOptions"):
        for rows in (256, 512, 1024) if device.type == "cpu" else (1024, 2048, 4096):
            found[f"torch, {rows} rows"] = torch_chunked(rows)
    else:
        absent["torch"] = f"torch {torch.__version__} has no chunked linear_cross_entropy"
    loaders: dict[str, tuple[str, Callable[[], Loss]]] = {
        "liger": ("liger_kernel", liger),
        "cut-cross-entropy": ("cut_cross_entropy", cut_cross_entropy),
        "quack": ("quack", quack),
        "trl": ("trl", trl_chunked),
    }
    for name, (package, load) in loaders.items():
        if importlib.util.find_spec(package) is None:
            absent[name] = f"{package} is not installed"
        elif device.type != "cuda" and name != "trl":
            absent[name] = "runs on a GPU only"
        else:
            try:
                found[name] = load()
            except (ImportError, AttributeError, TypeError) as error:
                absent[name] = f"{type(error).__name__}: {error}"
    return found, absent


def is_weighted(name: str) -> bool:
    return not any(part in name for part in UNWEIGHTED)


def gradients(loss: Loss, data: tuple[Tensor, ...]) -> Any:
    """Forward and backward with fresh leaves; the gradients live until the caller drops them."""
    hidden, weight, targets, weights = data
    hidden, weight = hidden.detach().requires_grad_(), weight.detach().requires_grad_()
    loss(hidden, weight, targets, weights).backward()
    return hidden.grad, weight.grad
