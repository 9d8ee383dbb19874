"""One chunk of logits in plain PyTorch: the CPU path, and what the Triton pass is compared with.

``chunk_pass`` turns the logits of a chunk of rows, in place, into the gradient of the row losses with
respect to the logits as the matrix product left them, and returns the statistics of every row. The formulas
stand in `tracestill.kernels.linear_cross_entropy`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tracestill.kernels.linear_cross_entropy_options import RowOptions

ENTROPY_BLOCK = 1 << 20
"""Elements of the scratch with which entropies are summed: 4 MiB in fp32, small beside any chunk."""

SHORT_CUT_LIMIT = 1e3
"""Largest |row maximum| with which entropy = nll - x.g is still good to about 1e-4 in fp32."""


class RowStatistics(NamedTuple):
    """What a pass over a chunk says about each of its C rows; all but `entropy` are always there."""

    nll: Tensor  # (C,) -log p of the target
    correct: Tensor  # (C,) 1 where the target's logit is the row's maximum
    entropy: Tensor | None  # (C,) None: the caller gets it from entropy = nll - x.g
    extra: Tensor | None  # (C,) what smoothing and z-loss add to nll; None without either


def entropies(probabilities: Tensor) -> Tensor:
    """-sum p log p of each row, with 0 log 0 = 0.  (C, V) -> (C,), block by block to save memory."""
    rows = max(1, ENTROPY_BLOCK // max(1, probabilities.shape[1]))
    parts = [torch.special.entr(block).sum(1) for block in probabilities.split(rows)]
    return torch.cat(parts) if parts else probabilities.new_empty(0)


def chunk_pass(
    logits: Tensor,  # (C, V) fp32 or fp64, overwritten with the gradient when `gradient` is set
    targets: Tensor,  # (C,) int64 in [0, V)
    options: RowOptions,
    *,
    gradient: bool,
    short_cut: bool,
) -> RowStatistics:
    """Row statistics, and the *unweighted* gradient in place of the logits.

    `short_cut` says that the caller will have x.g (the row's hidden state times its own gradient), from which
    entropy follows as nll - x.g, so no pass over V is spent on it. It is declined where it would lose accuracy:
    with a bias, a softcap or smoothing, and for logits beyond SHORT_CUT_LIMIT.
    """
    column = targets.unsqueeze(1)
    slope = None
    if options.logit_scale != 1.0:
        logits.mul_(options.logit_scale)
    if options.softcap is not None:
        logits.div_(options.softcap).tanh_()
        if gradient:
            slope = 1 - logits.square()
        logits.mul_(options.softcap)

    target_logit = logits.gather(1, column).squeeze(1)
    top = logits.amax(1)  # amax, not max(dim): the index costs more than the value
    correct = (target_logit >= top).to(logits.dtype)
    if short_cut:
        plain = options.softcap is None and not options.bias and not options.label_smoothing
        short_cut = plain and bool(top.abs().amax() <= SHORT_CUT_LIMIT) if top.numel() else plain
    mean_logit = logits.mean(1) if options.label_smoothing else None

    torch.log_softmax(logits, 1, out=logits)
    nll = -logits.gather(1, column).squeeze(1)
    extra, lse = None, None
    if options.z_loss:
        lse = target_logit + nll
        extra = options.z_loss * lse.square()
    if mean_logit is not None:
        smooth = options.label_smoothing * (target_logit - mean_logit)
        extra = smooth if extra is None else extra + smooth
    logits.exp_()
    entropy = None if short_cut else entropies(logits)
    if gradient:
        _gradient_in_place(logits, column, nll, lse, options)
        if slope is not None:
            logits.mul_(slope)
        if options.logit_scale != 1.0:
            logits.mul_(options.logit_scale)
    return RowStatistics(nll, correct, entropy, extra)


def _gradient_in_place(p: Tensor, column: Tensor, nll: Tensor, lse: Tensor | None, options: RowOptions) -> None:
    """p -> d(row loss)/d(capped logit); expm1 keeps p_t - 1 exact where p_t is close to 1."""
    if lse is None and not options.label_smoothing:
        p.scatter_(1, column, torch.expm1(-nll).unsqueeze(1))
        return
    if lse is not None:
        p.mul_((1 + 2 * options.z_loss * lse).unsqueeze(1))
    if options.label_smoothing:
        p.sub_(options.label_smoothing / p.shape[1])
    p.scatter_add_(1, column, p.new_full(column.shape, options.label_smoothing - 1))
