"""A gradient times one factor, rounded once to the parameter's type, in one pass over memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 4096
"""Elements a program: 16 a thread, read as fp32 four at a time."""


@triton.jit(do_not_specialize_on_alignment=["factor"])
def scale_kernel(
    grad,  # (n,) fp32
    factor,  # () fp32
    out,  # (n,)
    count,
    BLOCK: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    scaled = tl.load(grad + at, mask=inside, other=0.0) * tl.load(factor)
    tl.store(out + at, scaled.to(out.dtype.element_ty), mask=inside)


def scaled(
    grad: Tensor,  # contiguous, fp32
    factor: Tensor,  # 0-dim fp32, on the same device
    kind: torch.dtype,
) -> Tensor:
    """grad * factor in ``kind``."""
    out = torch.empty_like(grad, dtype=kind)
    if count := grad.numel():
        scale_kernel[(triton.cdiv(count, BLOCK),)](grad, factor, out, count, BLOCK=BLOCK, num_warps=8)
    return out
