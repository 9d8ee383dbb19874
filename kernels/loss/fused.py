"""LM head and span-weighted cross-entropy in one operation: hidden states to loss, without the logits.

For a row i with hidden state x_i, target t_i and weight w_i, and the head's matrix W (V, H):

    y_i   = W x_i (+ bias)                   z_i = softcap * tanh(logit_scale * y_i / softcap)
    p_i   = softmax(z_i)                     nll_i = -log p_i[t_i],  lse_i = log sum exp z_i
    l_i   = nll_i + label_smoothing * (z_i[t_i] - mean z_i) + z_loss * lse_i^2
    loss  = sum_i (c_i * w_i * f_i * l_i + d_i * v_i * D_i),  c_i = scale, or scale[kind_i]
    f_i   = dynamic(nll_i, p_i[t_i], entropy_i), held constant, or 1 where `dynamic_kinds` leaves out i's kind
    D_i: the teacher's term, v_i its weight and d_i its scale, see `TeacherTopK`

and the gradient of l_i with respect to z_i is (1 + 2 z_loss lse_i) p_i - (1 - label_smoothing) onehot(t_i)
- label_smoothing / V.

Rows without any weight are skipped before the first product: their gradient is exactly zero, whatever their hidden
state holds, and they cost nothing. The other rows go through in chunks, so that logits of more than one chunk
never exist. The gradient is computed in the forward pass, while a chunk's logits are at hand: three matrix
products in all, none in backward. On a GPU one Triton pass over a chunk's logits does the rest, in place. Backward
multiplies by `scale` and by the upstream gradient on the device, in fp32, and rounds once to the parameter's type.

Sums run over fixed shapes and without atomics: equal inputs give equal bits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tracestill.kernels.loss.checks import check_call, check_kinds, check_ranges, check_scale
from tracestill.kernels.loss.chunks import Call, Found, choose_pass, run_chunks, scaling
from tracestill.kernels.loss.options import (
    Excess,
    Multiplier,
    RowOptions,
    Rows,
    Statistic,
    TeacherTopK,
    check_weights,
)

SECOND = (
    "linear_cross_entropy has no second derivative: its gradient is computed in the forward pass, so that a gradient "
    "penalty (create_graph=True) would be silently zero; take the cross-entropy of plain logits for that"
)

UNCOMPILED = (
    "linear_cross_entropy runs as it is: its products and its Triton pass are kernels already, and which rows weigh "
    "something depends on the data; compile what stands around it, and leave out fullgraph=True"
)


@torch.compiler.disable(reason=UNCOMPILED)
def linear_cross_entropy(
    hidden: Tensor,  # (N, H)
    weight: Tensor,  # (V, H) the head's matrix
    targets: Tensor,  # (N,) int64 in [0, V); read only where the weight is not 0
    weights: Tensor,  # (N,) float32, finite, >= 0
    kinds: Tensor,  # (N,) uint8 in [0, num_kinds)
    *,
    num_kinds: int,
    scale: float | Tensor = 1.0,
    bias: Tensor | None = None,  # (V,)
    active: Tensor | None = None,  # (M,) int64, ascending
    chunk_rows: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    dynamic: Multiplier | None = None,
    dynamic_kinds: Tensor | None = None,  # (num_kinds,) bool: those that dynamic multiplies; None: all
    reference_nll: Tensor | None = None,  # (N,) of a reference model, for dynamic
    teacher: TeacherTopK | None = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Span-weighted cross-entropy of the head's logits, and per-kind sums of what it saw.

    Args:
        weights: may already hold the normaliser's factor c; otherwise give c as `scale`.
        scale: a number, a 0-dim tensor on the same device, or a tensor of one a kind, applied in fp32; no gradient
            flows into it.
        active: the rows to look at, ascending: those of non-zero weight, from the packing kernel, and with a teacher
            also those of non-zero teacher weight. None: found here, which makes the host wait for a GPU.
        chunk_rows: the most rows whose logits exist at a time; chunks are made of equal size. None: as many as take
            2 GiB on a GPU, 4096 on a CPU.
        dynamic: factor of the weights: `PowerOfP`, `Focal`, `Excess` or a function as described in
            `options.py`. A function is called with the rows of one chunk at a time.
        teacher: adds the divergence from a teacher's top-k distribution, with weights and a scale of its own.
        backend: "auto" takes Triton on a GPU and plain PyTorch elsewhere; "triton" or "reference" forces one.

    Returns:
        loss: scalar, fp32 (fp64 for fp64 inputs), attached to the graph also when no row has weight.
        statistics: (num_kinds, len(Statistic)) fp32, detached; columns as in `Statistic`. What `label_smoothing` and
            `z_loss` add to the loss is in none of them.

    Raises:
        ValueError: for shapes, types or options that do not fit; on a CPU also for negative or non-finite weights
            and for targets or kinds out of range. On a GPU checking values would make the host wait: there bad
            weights turn loss and gradients into NaN, so that no step is taken, and `check_weights` finds the row
            where weights are made.
        torch._dynamo.exc.Unsupported: within `torch.compile(fullgraph=True)`. Without `fullgraph`, compiled code around
            it stays compiled, and this runs as it is, with the same bits.
        RuntimeError: in a backward pass with `create_graph=True`: there is no second derivative.
    """
    check_call(hidden, weight, targets, weights, kinds, bias, reference_nll, teacher, num_kinds, chunk_rows)
    check_kinds(dynamic_kinds, num_kinds)
    check_scale(scale, num_kinds)
    if isinstance(dynamic, Excess) and reference_nll is None:
        raise ValueError("dynamic=Excess needs reference_nll")
    options = RowOptions(
        float(logit_scale), softcap, label_smoothing, z_loss, None if bias is None else bias.detach(), dynamic
    )
    teacher_weights = None
    if not weights.is_cuda:
        check_ranges(targets[weights != 0], kinds, len(weight), num_kinds, teacher)
    if teacher is not None:
        options = replace(options, divergence=teacher.divergence, beta=teacher.beta)
        teacher_weights = teacher.weights * _by_row(teacher.scale, kinds)
    if teacher is not None or (isinstance(scale, Tensor) and scale.dim()):
        weights, scale = weights * _by_row(scale, kinds), 1.0
    weighted = weights if teacher_weights is None else weights + teacher_weights
    if not weights.is_cuda:
        check_weights(weights)
        if teacher_weights is not None:
            check_weights(teacher_weights, "teacher weights by row")
    if active is None:
        active = weighted.detach().nonzero().squeeze(1)
    call = Call(
        rows=Rows(
            targets,
            weights.detach(),
            None if reference_nll is None else reference_nll.detach(),
            None if teacher is None else teacher.ids,
            None if teacher is None else teacher.log_probs.detach(),
            None if teacher_weights is None else teacher_weights.detach(),
            _multiplied(weights, kinds, dynamic, dynamic_kinds, teacher),
            kinds if getattr(dynamic, "by_kind", False) else None,
        ),
        active=active,
        chunk_rows=chunk_rows,
        options=options,
        triton_pass=choose_pass(backend, hidden),
    )
    sums = _Sums(kinds, num_kinds, _on_device(scale, hidden.device), torch.is_grad_enabled())
    loss, statistics = _LinearCrossEntropy.apply(hidden, weight, bias, call, sums)
    return loss, statistics


def _multiplied(
    weights: Tensor,
    kinds: Tensor,
    dynamic: Multiplier | None,
    dynamic_kinds: Tensor | None,
    teacher: TeacherTopK | None,
) -> Tensor | None:
    """(N,) bool: rows that `dynamic` multiplies, and sees; None: all."""
    if dynamic is None:
        return None
    found = None if dynamic_kinds is None else dynamic_kinds[kinds.long()]
    if teacher is None:
        return found
    own = weights != 0  # a row that only the teacher weighs has no target
    return own if found is None else own & found


@dataclass(frozen=True)
class _Sums:
    """How the rows of a call are summed up."""

    kinds: Tensor  # (N,)
    num_kinds: int
    scale: Tensor  # 0-dim fp32
    gradient: bool


def _by_row(scale: float | Tensor, kinds: Tensor) -> float | Tensor:
    """What to multiply (N,) weights by: a number, or a tensor on their device."""
    if not isinstance(scale, Tensor):
        return scale
    scale = scale.detach().to(device=kinds.device, dtype=torch.float32)
    return scale[kinds.long()] if scale.dim() else scale


def _on_device(scale: float | Tensor, device: torch.device) -> Tensor:
    """A 0-dim fp32 tensor. A number is filled in by a kernel: copying it to a GPU would make the host wait."""
    if isinstance(scale, Tensor):
        return scale.detach().to(device=device, dtype=torch.float32)
    return torch.full((), scale, dtype=torch.float32, device=device)


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradient in the forward pass; backward scales, rounds and scatters."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: Call, sums: _Sums):
        needs = [sums.gradient and need for need in ctx.needs_input_grad[:3]]
        found = run_chunks(hidden, weight, bias, call, needs)
        loss, statistics = _sum_up(found, call.active, sums)
        factor = sums.scale.to(found.weights.dtype) * _poison(found) * found.norm  # missing from the gradients
        ctx.save_for_backward(factor, call.active, *found.grads)
        ctx.rows, ctx.types = len(hidden), [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.mark_non_differentiable(statistics)
        return loss.to(factor.dtype), statistics

    @staticmethod
    def backward(ctx: Any, upstream: Tensor, _: Tensor):
        if torch.is_grad_enabled():  # create_graph=True; torch's once_differentiable would let it pass, as constants
            raise RuntimeError(SECOND)
        factor, active, *grads = ctx.saved_tensors
        factor = factor * upstream
        scaled = [
            None if grad is None else _scaled(grad, factor, kind) for grad, kind in zip(grads, ctx.types, strict=True)
        ]
        if scaled[0] is not None and len(active) != ctx.rows:
            compact = scaled[0]
            scaled[0] = compact.new_zeros(ctx.rows, compact.shape[1]).index_copy_(0, active, compact)
        return *scaled, None, None


def _scaled(grad: Tensor, factor: Tensor, kind: torch.dtype) -> Tensor:
    """grad * factor, computed in grad's type and rounded once to `kind`; in place where nobody can look again."""
    if grad.dtype != kind:
        if (by_triton := scaling(grad)) is not None:
            return by_triton(grad, factor, kind)
        return torch.mul(grad, factor, out=torch.empty_like(grad, dtype=kind))
    keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return grad * factor if keeps_graph() else grad.mul_(factor)


def _poison(found: Found) -> Tensor:
    """1, or NaN if a weight is negative or not finite. For GPUs: on a CPU such weights never come here."""
    w, v = found.weights, found.rows.teacher_weights
    good = torch.isfinite(w) & (w >= 0)
    if v is not None:
        good &= torch.isfinite(v) & (v >= 0)
    return torch.where(good.all(), 1.0, torch.nan)


def _sum_up(found: Found, active: Tensor, sums: _Sums) -> tuple[Tensor, Tensor]:
    """Loss (fp64) and statistics (num_kinds, len(Statistic)). Masked, not multiplied: an infinite nll stays with its
    own kind."""
    w, seen, scale = found.weights, found.seen, sums.scale.double()
    zero = torch.zeros((), dtype=torch.float64, device=w.device)
    counted = w != 0
    effective = w.double() * seen.factor
    weighted_nll = effective * seen.nll
    loss = torch.where(counted, weighted_nll + effective * seen.extra, zero).sum()
    kinds = sums.kinds if len(sums.kinds) == len(w) else sums.kinds.index_select(0, active)
    of_kind = kinds.unsqueeze(0) == torch.arange(sums.num_kinds, device=w.device).unsqueeze(1)  # (K, M)
    columns = {
        Statistic.WEIGHT: w.double() * scale,
        Statistic.WEIGHTED_NLL: weighted_nll * scale,
        Statistic.COUNT: torch.ones_like(w),
        Statistic.NLL: seen.nll,
        Statistic.CORRECT: seen.correct,
        Statistic.ENTROPY: seen.entropy,
    }
    member = of_kind & counted
    sums_of = {of: torch.where(member, column.double(), zero).sum(1) for of, column in columns.items()}
    if found.rows.teacher_weights is not None:
        v = found.rows.teacher_weights.double() * found.norm
        taught = v != 0
        weighted_divergence = torch.where(taught, v * seen.divergence, zero)
        loss, member = loss + weighted_divergence.sum(), of_kind & taught
        columns = {
            Statistic.TEACHER_WEIGHT: v * scale,
            Statistic.WEIGHTED_DIVERGENCE: weighted_divergence * scale,
            Statistic.TEACHER_COUNT: torch.ones_like(v),
            Statistic.DIVERGENCE: seen.divergence,
        }
        sums_of |= {of: torch.where(member, column.double(), zero).sum(1) for of, column in columns.items()}
    nothing = zero.expand(sums.num_kinds)
    statistics = torch.stack([sums_of.get(of, nothing) for of in Statistic], 1)
    return loss * scale * _poison(found), statistics.float()
