"""LM head and span-weighted cross-entropy in one operation: hidden states to loss, without the logits.

For a row i with hidden state x_i, target t_i and weight w_i, and the head's matrix W (V, H):

    y_i   = W x_i (+ bias)                   z_i = softcap * tanh(logit_scale * y_i / softcap)
    p_i   = softmax(z_i)                     nll_i = -log p_i[t_i],  lse_i = log sum exp z_i
    l_i   = nll_i + label_smoothing * (z_i[t_i] - mean z_i) + z_loss * lse_i^2
    loss  = scale * sum_i (w_i * f_i * l_i + v_i * D_i)
    f_i   = dynamic(nll_i, p_i[t_i], entropy_i), held constant, or 1 where `dynamic_kinds` leaves out i's kind
    D_i: teacher term, see `TeacherTopK`

and the gradient of l_i with respect to z_i is (1 + 2 z_loss lse_i) p_i - (1 - label_smoothing) onehot(t_i)
- label_smoothing / V.

Rows without weight are skipped before the first product: their gradient is exactly zero, whatever their hidden
state holds, and they cost nothing. The other rows go through in chunks, so that logits of more than one chunk
never exist. The gradient is computed in the forward pass, while a chunk's logits are at hand: three matrix
products in all, none in backward. On a GPU one Triton pass over a chunk's logits does the rest, in place. Backward
multiplies by `scale` and by the upstream gradient on the device, in fp32, and rounds once to the parameter's type.

Sums run over fixed shapes and without atomics: equal inputs give equal bits.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracestill.kernels.loss import reference
from tracestill.kernels.loss.checks import check_call, check_kinds, check_ranges
from tracestill.kernels.loss.options import (
    Excess,
    Multiplier,
    RowOptions,
    Rows,
    Seen,
    TeacherTopK,
    check_weights,
    multiplier,
)

STATISTICS = ("weight", "weighted_nll", "count", "nll", "correct", "entropy")
"""Columns of the statistics, each summed over the weighted rows of a kind."""

SECOND = (
    "linear_cross_entropy has no second derivative: its gradient is computed in the forward pass, so that a gradient "
    "penalty (create_graph=True) would be silently zero; take the cross-entropy of plain logits for that"
)

UNCOMPILED = (
    "linear_cross_entropy runs as it is: its products and its Triton pass are kernels already, and which rows weigh "
    "something depends on the data; compile what stands around it, and leave out fullgraph=True"
)

PAD = 16
"""Rows of logits are a multiple of this many elements apart on a GPU, or vector loads are lost."""


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
    chunk_rows: int = 4096,
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
        scale: a number or a 0-dim tensor on the same device, applied in fp32; no gradient flows into it.
        active: the rows to look at, ascending: those of non-zero weight, from the packing kernel, and with a teacher
            also those of non-zero teacher weight. None: found here, which makes the host wait for a GPU.
        chunk_rows: the most rows whose logits exist at a time; chunks are made of equal size.
        dynamic: factor of the weights: `PowerOfP`, `Focal`, `Within`, `Excess` or a function as described in
            `options.py`. A function is called with the rows of one chunk at a time.
        teacher: adds the divergence from a teacher's top-k distribution, with a weight of its own by kind.
        backend: "auto" takes Triton on a GPU and plain PyTorch elsewhere; "triton" or "reference" forces one.

    Returns:
        loss: scalar, fp32 (fp64 for fp64 inputs), attached to the graph also when no row has weight.
        statistics: (num_kinds, 6) fp32, detached; columns as in STATISTICS: the sum of w (as given: multiply by
            `scale` for w*c), of w*f*nll, the number of weighted rows, and over these the sums of nll, of correct
            (no logit is larger than the target's) and of entropy in nats.

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
    if isinstance(dynamic, Excess) and reference_nll is None:
        raise ValueError("dynamic=Excess needs reference_nll")
    reverse = teacher is not None and teacher.reverse
    options = RowOptions(
        float(logit_scale), softcap, label_smoothing, z_loss, None if bias is None else bias.detach(), dynamic, reverse
    )
    teacher_weights = None if teacher is None else teacher.weights.to(torch.float32)[kinds.long()]
    weighted = weights if teacher_weights is None else weights + teacher_weights
    if not weights.is_cuda:
        check_weights(weights)
        if teacher_weights is not None:
            check_weights(teacher_weights, "teacher weights by row")
        check_ranges(targets[weights != 0], kinds, len(weight), num_kinds)
    if active is None:
        active = weighted.detach().nonzero().squeeze(1)
    call = _Call(
        rows=Rows(
            targets,
            weights.detach(),
            None if reference_nll is None else reference_nll.detach(),
            None if teacher is None else teacher.ids,
            None if teacher is None else teacher.log_probs.detach(),
            None if teacher_weights is None else teacher_weights.detach(),
            None if dynamic is None or dynamic_kinds is None else dynamic_kinds[kinds.long()],
        ),
        kinds=kinds,
        num_kinds=num_kinds,
        active=active,
        scale=_on_device(scale, hidden.device),
        chunk_rows=chunk_rows,
        options=options,
        triton_pass=_triton_pass(backend, hidden),
        gradient=torch.is_grad_enabled(),
    )
    loss, statistics = _LinearCrossEntropy.apply(hidden, weight, bias, call)
    return loss, statistics


@dataclass(frozen=True)
class _Call:
    """Everything of one call that autograd does not differentiate."""

    rows: Rows  # all N of them
    kinds: Tensor
    num_kinds: int
    active: Tensor
    scale: Tensor
    chunk_rows: int
    options: RowOptions
    triton_pass: Callable[..., bool] | None
    gradient: bool


def _on_device(scale: float | Tensor, device: torch.device) -> Tensor:
    """A 0-dim fp32 tensor. A number is filled in by a kernel: copying it to a GPU would make the host wait."""
    if isinstance(scale, Tensor):
        return scale.detach().to(device=device, dtype=torch.float32)
    return torch.full((), scale, dtype=torch.float32, device=device)


def _triton_pass(backend: str, hidden: Tensor) -> Callable[..., bool] | None:
    """The Triton pass over a chunk, or None for the plain one."""
    if backend not in ("auto", "triton", "reference"):
        raise ValueError(f"backend must be auto, triton or reference, not {backend!r}")
    if backend == "reference" or (backend == "auto" and (not hidden.is_cuda or hidden.dtype == torch.float64)):
        return None
    try:
        from tracestill.kernels.loss.triton_pass import chunk_pass, runs_on
    except ImportError:
        if backend == "auto":
            return None
        raise ValueError("backend='triton' needs the package triton: pip install triton") from None
    if not runs_on(hidden):
        raise ValueError(f"backend='triton' cannot run in {hidden.dtype} on {hidden.device}")
    return chunk_pass


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradient in the forward pass; backward scales, rounds and scatters."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call):
        needs = [call.gradient and need for need in ctx.needs_input_grad[:3]]
        loss, statistics, factor, grads = _forward(hidden, weight, bias, call, needs)
        ctx.save_for_backward(factor, call.active, *grads)
        ctx.rows, ctx.types = len(hidden), [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.mark_non_differentiable(statistics)
        return loss, statistics

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
        return *scaled, None


def _scaled(grad: Tensor, factor: Tensor, kind: torch.dtype) -> Tensor:
    """grad * factor, computed in grad's type and rounded once to `kind`; in place where nobody can look again."""
    if grad.dtype != kind:
        return torch.mul(grad, factor, out=torch.empty_like(grad, dtype=kind))
    keeps_graph = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", lambda: True)
    return grad * factor if keeps_graph() else grad.mul_(factor)


def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call, needs: list[bool]):
    """Loss, statistics, the factor still missing from the gradients, and the gradients (None where not needed).

    Gradients come as sums over the M rows looked at: (M, H), (V, H), (V,), in fp32, without `scale`.
    """
    device, count, vocabulary = hidden.device, len(call.active), len(weight)
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    new = functools.partial(torch.empty, dtype=exact, device=device)
    product_type, head = _operands(hidden, weight, exact)
    every_row = count == len(hidden)
    rows = call.rows if every_row else call.rows.taken(call.active)
    w = rows.weights.to(exact)
    norm = _power_of_two(rows, exact)
    rows = rows._replace(targets=rows.targets.masked_fill(w == 0, 0), weights=w / norm)
    if rows.teacher_weights is not None:
        rows = rows._replace(teacher_weights=rows.teacher_weights.to(exact) / norm)

    size = -(-count // max(1, -(-count // call.chunk_rows)))  # chunks of equal size
    if call.triton_pass is None:
        chunk_pass, logits = reference.chunk_pass, new(size, vocabulary)
    else:
        chunk_pass, logits = call.triton_pass, new(size, -(-vocabulary // PAD) * PAD, dtype=product_type)
    d_hidden = new(count, hidden.shape[1]) if needs[0] else None
    d_weight = new(weight.shape) if needs[1] else None
    d_bias = new(vocabulary).zero_() if needs[2] else None
    seen = Seen(*new(len(Seen._fields), count).unbind(0))
    for start in range(0, count, max(1, size)):
        part = slice(start, min(start + size, count))
        x = (hidden[part] if every_row else hidden.index_select(0, call.active[part])).detach().to(product_type)
        z = logits[: len(x), :vocabulary]
        _product(x, head.t(), out=z)
        of, chunk = seen.part(part), rows.part(part)
        weighted = chunk_pass(z, chunk, call.options, of, gradient=any(needs), short_cut=needs[0] and not z.is_cuda)
        g = z.to(product_type)
        d_rows = None if d_hidden is None else _product(g, head, out=d_hidden[part])
        if not weighted:
            assert d_rows is not None
            torch.sub(of.nll, (x * d_rows).sum(1), out=of.entropy).clamp_(min=0)
            factor = 1.0 if call.options.dynamic is None else multiplier(call.options.dynamic, of, chunk)
            of.factor.copy_(torch.as_tensor(factor))
            row_weights = (chunk.weights * factor).unsqueeze(1)
            d_rows.mul_(row_weights)
            x = x * row_weights
        if d_weight is not None:
            _accumulate(d_weight, g.t(), x, first=start == 0)
        if d_bias is not None:
            d_bias.add_(z.sum(0, dtype=exact))
    if not count and d_weight is not None:
        d_weight.zero_()

    loss, statistics = _sums(w, rows, seen, norm, call)
    return loss.to(exact), statistics, call.scale.to(exact) * _poison(w) * norm, (d_hidden, d_weight, d_bias)


def _operands(hidden: Tensor, weight: Tensor, exact: torch.dtype) -> tuple[torch.dtype, Tensor]:
    """Type of the products' operands, and the head in it. A CPU multiplies in fp32: bf16 is several times slower."""
    if not hidden.is_cuda:
        return exact, weight.detach().to(exact)
    if torch.is_autocast_enabled(hidden.device.type):
        kind = torch.get_autocast_dtype(hidden.device.type)
    else:
        kind = hidden.dtype
    return kind, weight.detach().to(kind)


def _product(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out.dtype, out=out)  # low-precision operands, fp32 result: CUDA only


def _accumulate(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (+)= a b in total's type; the first chunk writes without reading."""
    if first:
        _product(a, b, out=total)
    elif a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, total.dtype, out=total)


def _power_of_two(rows: Rows, exact: torch.dtype) -> Tensor:
    """The power of two just above the largest weight, within 2^+-100; 1 without rows.

    Weights are divided by it before they meet the gradient of the logits, and gradients multiplied at the end: exact,
    and no weight is then too large or too small for the products' type.
    """
    largest = rows.weights.new_ones((), dtype=exact)
    if len(rows.weights):
        largest = rows.weights.amax().to(exact)
        if rows.teacher_weights is not None:
            largest = torch.maximum(largest, rows.teacher_weights.amax().to(exact))
    _, exponent = torch.frexp(largest)
    return torch.ldexp(torch.ones_like(largest), exponent.clamp(-100, 100))


def _poison(w: Tensor) -> Tensor:
    """1, or NaN if a weight is negative or not finite. For GPUs: on a CPU such weights never come here."""
    return torch.where((torch.isfinite(w) & (w >= 0)).all(), 1.0, torch.nan)


def _sums(w: Tensor, rows: Rows, seen: Seen, norm: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
    """Loss (fp64) and statistics (num_kinds, 6). Masked, not multiplied: an infinite nll stays with its own kind."""
    zero = torch.zeros((), dtype=torch.float64, device=w.device)
    counted = w != 0
    effective = w.double() * seen.factor
    weighted_nll = effective * seen.nll
    loss = torch.where(counted, weighted_nll + effective * seen.extra, zero).sum()
    if rows.teacher_weights is not None:
        loss = loss + (rows.teacher_weights.double() * seen.divergence).sum() * norm
    kinds = call.kinds if len(call.kinds) == len(w) else call.kinds.index_select(0, call.active)
    member = (kinds.unsqueeze(0) == torch.arange(call.num_kinds, device=w.device).unsqueeze(1)) & counted  # (K, M)
    columns = (w, weighted_nll, torch.ones_like(w), seen.nll, seen.correct, seen.entropy)
    statistics = torch.stack([torch.where(member, column.double(), zero).sum(1) for column in columns], 1)
    return loss * call.scale.double() * _poison(w), statistics.float()
