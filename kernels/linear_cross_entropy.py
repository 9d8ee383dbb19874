"""LM head and span-weighted cross-entropy in one operation: hidden states to loss, without the logits.

For a row i with hidden state x_i, target t_i and weight w_i, and the head's matrix W (V, H):

    y_i   = W x_i (+ bias)                   z_i = softcap * tanh(logit_scale * y_i / softcap)
    p_i   = softmax(z_i)                     nll_i = -log p_i[t_i],  lse_i = log sum exp z_i
    l_i   = nll_i + label_smoothing * (z_i[t_i] - mean z_i) + z_loss * lse_i^2
    loss  = scale * sum_i w_i * f_i * l_i    f_i = dynamic(nll_i, p_i[t_i], entropy_i), a constant for autograd

and the gradient of l_i with respect to z_i is (1 + 2 z_loss lse_i) p_i - (1 - label_smoothing) onehot(t_i)
- label_smoothing / V.

Rows of zero weight are skipped before the first product: their gradient is exactly zero, whatever their hidden
state holds, and they cost nothing. The other rows go through in chunks, so that logits of more than one chunk
never exist. The gradient is computed in the forward pass, while a chunk's logits are at hand: three matrix
products in all, none in backward. Backward multiplies by `scale` and by the upstream gradient on the device, in
fp32, and the result becomes the parameter's type once.

Everything here is deterministic: equal inputs give equal bits (sums run over fixed shapes, without atomics).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tracestill.kernels.linear_cross_entropy_options import Multiplier, RowOptions, check_weights
from tracestill.kernels.linear_cross_entropy_reference import chunk_pass

STATISTICS = ("weight", "weighted_nll", "count", "nll", "correct", "entropy")
"""Columns of the statistics, each summed over the weighted rows of a kind."""


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
    reference_nll: Tensor | None = None,  # (N,)
    teacher: Any = None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Span-weighted cross-entropy of the head's logits, and per-kind sums of what it saw.

    Args:
        weights: may already hold the normaliser's factor c; otherwise give c as `scale`.
        scale: a number or a 0-dim tensor on the same device, applied in fp32; no gradient flows into it.
        active: rows of non-zero weight, ascending, from the packing kernel. None: found from `weights`, which
            makes the host wait for a GPU.
        chunk_rows: the most rows whose logits exist at a time; chunks are made of equal size.
        dynamic: factor of the weight as a function of (nll, p, entropy), each (C,), called once a chunk.

    Returns:
        loss: scalar, fp32 (fp64 for fp64 inputs), attached to the graph also when no row has weight.
        statistics: (num_kinds, 6) fp32, detached; columns as in STATISTICS: the sum of w (as given: multiply by
            `scale` for w*c), of w*f*nll, the number of rows, and the sums of nll, of correct (the target's logit
            is the largest) and of entropy in nats.

    Raises:
        ValueError: for shapes, types or options that do not fit; on a CPU for negative or non-finite weights. On a
            GPU checking would make the host wait: there such weights turn loss and gradients into NaN, so that no
            step is taken; `check_weights` finds the row where weights are made.
    """
    _check_shapes(hidden, weight, targets, weights, kinds, bias)
    if chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, not {chunk_rows}")
    if backend not in ("auto", "reference"):
        raise ValueError(f"backend must be auto or reference, not {backend!r}")
    if teacher is not None or reference_nll is not None:
        raise NotImplementedError("teacher and reference_nll")
    options = RowOptions(logit_scale, softcap, label_smoothing, z_loss, bias is not None)
    if not weights.is_cuda:
        check_weights(weights)
        _check_ranges(targets[weights != 0], kinds, len(weight), num_kinds)
    if active is None:
        active = weights.nonzero().squeeze(1)
    call = _Call(
        targets=targets,
        weights=weights.detach(),
        kinds=kinds,
        num_kinds=num_kinds,
        active=active,
        scale=torch.as_tensor(scale, dtype=torch.float32, device=hidden.device).detach(),
        chunk_rows=chunk_rows,
        options=options,
        dynamic=dynamic,
        gradient=torch.is_grad_enabled(),
    )
    loss, statistics = _LinearCrossEntropy.apply(hidden, weight, bias, call)
    return loss, statistics


@dataclass(frozen=True)
class _Call:
    """Everything of one call that autograd does not differentiate."""

    targets: Tensor
    weights: Tensor
    kinds: Tensor
    num_kinds: int
    active: Tensor
    scale: Tensor
    chunk_rows: int
    options: RowOptions
    dynamic: Multiplier | None
    gradient: bool


class _LinearCrossEntropy(torch.autograd.Function):
    """Gradient in the forward pass; backward scales, converts and scatters."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call):
        needs = [call.gradient and need for need in ctx.needs_input_grad[:3]]
        loss, statistics, factor, grads = _forward(hidden, weight, bias, call, needs)
        ctx.save_for_backward(factor, call.active, *grads)
        ctx.rows, ctx.types = len(hidden), [None if t is None else t.dtype for t in (hidden, weight, bias)]
        ctx.mark_non_differentiable(statistics)
        return loss, statistics

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor, _: Tensor):
        factor, active, *grads = ctx.saved_tensors
        factor = factor * upstream
        scaled = [
            None if grad is None else (grad * factor).to(kind) for grad, kind in zip(grads, ctx.types, strict=True)
        ]
        if scaled[0] is not None and len(active) != ctx.rows:
            compact = scaled[0]
            scaled[0] = compact.new_zeros(ctx.rows, compact.shape[1]).index_copy_(0, active, compact)
        return *scaled, None


def _forward(hidden: Tensor, weight: Tensor, bias: Tensor | None, call: _Call, needs: list[bool]):
    """Loss, statistics, the factor still missing from the gradients, and the gradients (None where not needed).

    Gradients come as sums over compacted rows: (M, H), (V, H), (V,), in fp32, without `scale`.
    """
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    product_type, head = _operands(hidden, weight, exact)
    every_row = len(call.active) == len(hidden)
    rows = len(call.active)
    take = (lambda t: t) if every_row else (lambda t: t.index_select(0, call.active))
    w = take(call.weights).to(exact)
    targets = take(call.targets).masked_fill(w == 0, 0)
    # Weights enter the products divided by a power of two near their maximum: exact, and safe at any magnitude.
    norm = _power_of_two(w) if rows else w.new_ones(())
    w_norm = w / norm

    size = -(-rows // max(1, -(-rows // call.chunk_rows)))  # chunks of equal size
    logits = torch.empty(size, weight.shape[0], dtype=exact, device=hidden.device)
    d_hidden = torch.empty(rows, hidden.shape[1], dtype=exact, device=hidden.device) if needs[0] else None
    d_weight = torch.empty(weight.shape, dtype=exact, device=hidden.device) if needs[1] else None
    d_bias = torch.zeros(weight.shape[0], dtype=exact, device=hidden.device) if needs[2] else None
    columns = torch.empty(5, rows, dtype=exact, device=hidden.device)  # loss, weighted nll, nll, correct, entropy
    for start in range(0, rows, max(1, size)):
        part = slice(start, min(start + size, rows))
        x = (hidden[part] if every_row else hidden.index_select(0, call.active[part])).detach().to(product_type)
        z = logits[: len(x)]
        _product(x, head.t(), out=z)
        if bias is not None:
            z.add_(bias.detach().to(exact))
        seen = chunk_pass(z, targets[part], call.options, gradient=any(needs), short_cut=needs[0])
        g = z.to(product_type) if any(needs) else z
        d_rows = None
        if d_hidden is not None:
            d_rows = _product(g, head, out=d_hidden[part])
        entropy = seen.entropy
        if entropy is None:
            assert d_rows is not None
            entropy = (seen.nll - (x * d_rows).sum(1)).clamp_(min=0)
        f = _multiplier(call.dynamic, seen.nll, entropy)
        row_loss = seen.nll if seen.extra is None else seen.nll + seen.extra
        effective = w[part] if f is None else w[part] * f
        for column, value in zip(
            columns, (effective * row_loss, effective * seen.nll, seen.nll, seen.correct, entropy), strict=True
        ):
            column[part] = value
        factor = (w_norm[part] if f is None else w_norm[part] * f).unsqueeze(1)
        if d_rows is not None:
            d_rows.mul_(factor)
        if d_weight is not None:
            _accumulate(d_weight, g.t(), (x * factor).to(product_type), first=start == 0)
        if d_bias is not None:
            d_bias.add_((z * factor).sum(0))
    if not rows and d_weight is not None:
        d_weight.zero_()

    valid = torch.isfinite(w) & (w >= 0)
    poison = torch.where(valid.all(), 1.0, torch.nan).to(exact)
    scale = call.scale.to(exact) * poison
    loss = (columns[0].double().sum() * scale.double()).to(exact)
    statistics = _by_kind(w, columns, take(call.kinds), call.num_kinds)
    return loss, statistics, scale * norm, (d_hidden, d_weight, d_bias)


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


def _power_of_two(w: Tensor) -> Tensor:
    """The power of two at or just above max |w|, within 2^+-100; 1 where w is all zero or not finite."""
    _, exponent = torch.frexp(w.amax())
    return torch.ldexp(torch.ones_like(w[0]), exponent.clamp(-100, 100))


def _multiplier(dynamic: Multiplier | None, nll: Tensor, entropy: Tensor) -> Tensor | None:
    if dynamic is None:
        return None
    f = dynamic(nll, torch.exp(-nll), entropy).detach()
    if f.shape != nll.shape:
        raise ValueError(f"dynamic must return one factor a row, {tuple(nll.shape)}, not {tuple(f.shape)}")
    if not f.is_cuda:
        check_weights(f)
    return f.to(nll.dtype)


def _by_kind(w: Tensor, columns: Tensor, kinds: Tensor, num_kinds: int) -> Tensor:
    """(num_kinds, 6) sums. Masked, not multiplied: an infinite nll stays with its own kind."""
    counted = (kinds.unsqueeze(0) == torch.arange(num_kinds, device=kinds.device).unsqueeze(1)) & (w != 0)  # (K, M)
    _, weighted_nll, nll, correct, entropy = columns
    values = (w, weighted_nll, torch.ones_like(w), nll, correct, entropy)
    zero = torch.zeros((), dtype=torch.float64, device=w.device)
    return torch.stack([torch.where(counted, v.double(), zero).sum(1) for v in values], 1).float()


def _check_shapes(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, kinds: Tensor, bias: Tensor | None
) -> None:
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden (N, H) and weight (V, H) do not fit: {tuple(hidden.shape)}, {tuple(weight.shape)}")
    for name, tensor in (("targets", targets), ("weights", weights), ("kinds", kinds)):
        if tensor.shape != hidden.shape[:1]:
            raise ValueError(f"{name} must have shape ({len(hidden)},), not {tuple(tensor.shape)}")
    for name, tensor, kind in (("targets", targets, torch.int64), ("kinds", kinds, torch.uint8)):
        if tensor.dtype != kind:
            raise ValueError(f"{name} must be {kind}, not {tensor.dtype}")
    if weights.dtype != torch.float32:
        raise ValueError(f"weights must be torch.float32, not {weights.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({len(weight)},), not {tuple(bias.shape)}")


def _check_ranges(targets: Tensor, kinds: Tensor, vocabulary: int, num_kinds: int) -> None:
    """On a CPU only. On a GPU a target out of range is the device's own assertion, as in PyTorch's loss."""
    if len(targets) and not 0 <= int(targets.amin()) <= int(targets.amax()) < vocabulary:
        raise ValueError(
            f"targets of weighted rows must lie in [0, {vocabulary}), not {targets.amin()}..{targets.amax()}"
        )
    if len(kinds) and int(kinds.amax()) >= num_kinds:
        raise ValueError(f"kinds must lie below num_kinds = {num_kinds}, not {int(kinds.amax())}")
