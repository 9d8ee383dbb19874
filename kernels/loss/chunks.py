"""Rows through the head, a chunk at a time: what `linear_cross_entropy` and `linear_cross_entropy_rows` share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tracestill.kernels.loss import reference
from tracestill.kernels.loss.options import RowOptions, Rows, Seen, multiplier

PAD = 16
"""Rows of logits are a multiple of this many elements apart on a GPU, or vector loads are lost."""

TILE = 128
"""Rows that a matrix product takes at once: chunks are a multiple of it where nobody says how long they are."""

GPU_BYTES, CPU_ROWS = 1 << 31, 4096
"""What a chunk's logits may take. Between two chunks the head's gradient goes through memory in fp32, so that a GPU
wants few of them."""


@dataclass(frozen=True)
class Call:
    """Everything of one call that autograd does not differentiate."""

    rows: Rows  # all N of them
    active: Tensor  # (M,) int64, ascending: those that are looked at
    chunk_rows: int | None  # the most rows of a chunk; None: as `rows_of_chunk` says
    options: RowOptions
    triton_pass: Callable[..., bool] | None
    top: bool = False  # whether the most likely token of each row is wanted


@dataclass(frozen=True)
class Found:
    """What the passes over the chunks of a call left."""

    rows: Rows  # the M looked at; weights divided by `norm`
    weights: Tensor  # (M,) as they came
    norm: Tensor  # see `power_of_two`
    seen: Seen  # of the M rows
    grads: tuple[Tensor | None, Tensor | None, Tensor | None]  # (M, H), (V, H), (V,) sums in fp32, times 1 / norm


def choose_pass(backend: str, hidden: Tensor) -> Callable[..., bool] | None:
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


def scaling(grad: Tensor) -> Callable[[Tensor, Tensor, torch.dtype], Tensor] | None:
    """What scales a gradient on a GPU and rounds it; None where torch has to."""
    if not grad.is_cuda or grad.dtype != torch.float32:
        return None
    try:
        from tracestill.kernels.loss.triton_scale import scaled
    except ImportError:
        return None
    return scaled


def run_chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None, call: Call, needs: list[bool]) -> Found:
    """What every row's logits say, and those gradients (of hidden, weight, bias) that are needed, without `scale`."""
    device, count, vocabulary = hidden.device, len(call.active), len(weight)
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    new = functools.partial(torch.empty, dtype=exact, device=device)
    product_type, head = operands(hidden, weight, exact)
    every_row = count == len(hidden)
    rows = call.rows if every_row else call.rows.taken(call.active)
    w = rows.weights.to(exact)
    norm = power_of_two(rows, exact)
    rows = rows._replace(targets=rows.targets.masked_fill(w == 0, 0), weights=w / norm)
    if rows.teacher_weights is not None:
        rows = rows._replace(teacher_weights=rows.teacher_weights.to(exact) / norm)

    size = chunk_size(count, call.chunk_rows or rows_of_chunk(vocabulary, product_type.itemsize, cuda=hidden.is_cuda))
    if call.chunk_rows is None:
        size = min(-(-size // TILE) * TILE, count)
    if call.triton_pass is None:
        chunk_pass, logits = reference.chunk_pass, scratch(size, vocabulary, exact, device)
    else:
        chunk_pass, logits = call.triton_pass, new(size, -(-vocabulary // PAD) * PAD, dtype=product_type)
    d_hidden = new(count, hidden.shape[1]) if needs[0] else None
    d_weight = new(weight.shape) if needs[1] else None
    d_bias = new(vocabulary).zero_() if needs[2] else None
    top = torch.empty(count, dtype=torch.int64, device=device) if call.top else None
    seen = Seen(*new(len(Seen._fields) - 1, count).unbind(0))._replace(top=top)
    for start in range(0, count, max(1, size)):
        part = slice(start, min(start + size, count))
        x = (hidden[part] if every_row else hidden.index_select(0, call.active[part])).detach().to(product_type)
        z = logits[: len(x), :vocabulary]
        product(x, head.t(), out=z)
        of, chunk = seen.part(part), rows.part(part)
        weighted = chunk_pass(z, chunk, call.options, of, gradient=any(needs), short_cut=needs[0] and not z.is_cuda)
        g = z.to(product_type)
        d_rows = None if d_hidden is None else product(g, head, out=d_hidden[part])
        if not weighted:
            assert d_rows is not None
            torch.sub(of.nll, (x * d_rows).sum(1), out=of.entropy).clamp_(min=0)
            factor = 1.0 if call.options.dynamic is None else multiplier(call.options.dynamic, of, chunk)
            of.factor.copy_(torch.as_tensor(factor))
            row_weights = (chunk.weights * factor).unsqueeze(1)
            d_rows.mul_(row_weights)
            x = x * row_weights
        if d_weight is not None:
            accumulate(d_weight, g.t(), x, first=start == 0)
        if d_bias is not None:
            d_bias.add_(z.sum(0, dtype=exact))
    if not count and d_weight is not None:
        d_weight.zero_()
    if call.triton_pass is None:
        keep(logits)

    return Found(rows, w, norm, seen, (d_hidden, d_weight, d_bias))


KEPT_BYTES = 1 << 28
"""Of a CPU's memory for logits, what may be kept from call to call: to get 130 MB anew takes 6 % of the time of the
products with a head of 256 columns, and less the wider it is."""

_spare: dict[torch.dtype, Tensor] = {}  # flat; taken out while in use


def scratch(rows: int, vocabulary: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(rows, vocabulary) of anything. Who takes it has it alone."""
    count = rows * vocabulary
    flat = _spare.pop(dtype, None) if device.type == "cpu" else None
    if flat is None or not count <= len(flat) <= 2 * count:
        flat = torch.empty(count, dtype=dtype, device=device)
    return flat[:count].view(rows, vocabulary)


def keep(logits: Tensor) -> None:
    """Give back what `scratch` gave."""
    if logits.device.type == "cpu" and logits.nbytes <= KEPT_BYTES and not logits.is_inference():
        _spare[logits.dtype] = logits.new_empty(0).set_(logits.untyped_storage())


def rows_of_chunk(vocabulary: int, itemsize: int, *, cuda: bool) -> int:
    """The most rows of a chunk where nobody says how many; ``itemsize``: bytes of a logit."""
    return max(GPU_BYTES // (itemsize * vocabulary) // TILE, 1) * TILE if cuda else CPU_ROWS


def chunk_size(count: int, most: int) -> int:
    """Rows of each of as few chunks as may be, all of equal size."""
    return -(-count // max(1, -(-count // most)))


def operands(hidden: Tensor, weight: Tensor, exact: torch.dtype) -> tuple[torch.dtype, Tensor]:
    """Type of the products' operands, and the head in it. A CPU multiplies in fp32: bf16 is several times slower."""
    if not hidden.is_cuda:
        return exact, weight.detach().to(exact)
    if torch.is_autocast_enabled(hidden.device.type):
        kind = torch.get_autocast_dtype(hidden.device.type)
    else:
        kind = hidden.dtype
    return kind, weight.detach().to(kind)


def product(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    if a.dtype == out.dtype:
        return torch.mm(a, b, out=out)
    return torch.mm(a, b, out.dtype, out=out)  # low-precision operands, fp32 result: CUDA only


def accumulate(total: Tensor, a: Tensor, b: Tensor, *, first: bool) -> None:
    """total (+)= a b in total's type; the first chunk writes without reading."""
    if first:
        product(a, b, out=total)
    elif a.dtype == total.dtype:
        total.addmm_(a, b)
    else:
        torch.addmm(total, a, b, total.dtype, out=total)


def power_of_two(rows: Rows, exact: torch.dtype) -> Tensor:
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
    bits = (exponent.clamp(-100, 100) + 127) << 23  # of an fp32 power of two: torch.ldexp need not be exact on a GPU
    return bits.view(torch.float32).to(exact)
