"""What a head makes of single rows: one fused pass over their logits, no gradient, and no sums."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tracestill.kernels.loss.checks import check_call, check_ranges
from tracestill.kernels.loss.chunks import Call, choose_pass, run_chunks
from tracestill.kernels.loss.fused import UNCOMPILED
from tracestill.kernels.loss.options import RowOptions, Rows


class RowLosses(NamedTuple):
    """Of N rows, each (N,); 0 and False for rows that were not looked at."""

    nll: Tensor  # fp32 (fp64 for fp64 inputs), nats of the target
    entropy: Tensor  # the same type, nats
    correct: Tensor  # bool: no logit is larger than the target's
    top: Tensor  # int64: the most likely token, the first of equal ones


@torch.no_grad()
@torch.compiler.disable(reason=UNCOMPILED)
def linear_cross_entropy_rows(
    hidden: Tensor,  # (N, H)
    weight: Tensor,  # (V, H) the head's matrix
    targets: Tensor,  # (N,) int64 in [0, V); read only where `active` says
    *,
    bias: Tensor | None = None,  # (V,)
    active: Tensor | None = None,  # (M,) int64, ascending: the rows to look at; None: all
    chunk_rows: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    backend: str = "auto",
) -> RowLosses:
    """Cross-entropy, entropy and most likely token of every row, by the pass that `linear_cross_entropy` takes.

    No gradient comes from it: take `linear_cross_entropy` for one. Logits of more than one chunk never exist, and
    nothing waits for a GPU. Options are those of `linear_cross_entropy`. Raises ValueError for shapes, types or options
    that do not fit, and on a CPU for targets out of range.
    """
    rows = len(hidden)
    ones = torch.ones(rows, dtype=torch.float32, device=hidden.device)
    check_call(hidden, weight, targets, ones, ones.to(torch.uint8), bias, None, None, 2, chunk_rows)
    everywhere = active is None
    if active is None:
        active = torch.arange(rows, device=hidden.device)
    if not hidden.is_cuda:
        check_ranges(targets if everywhere else targets[active], ones.to(torch.uint8), len(weight), 2)
    call = Call(
        rows=Rows(targets, ones, None, None, None, None),
        active=active,
        chunk_rows=chunk_rows,
        options=RowOptions(float(logit_scale), softcap, bias=None if bias is None else bias.detach()),
        triton_pass=choose_pass(backend, hidden),
        top=True,
    )
    seen = run_chunks(hidden, weight, bias, call, [False, False, False]).seen
    assert seen.top is not None
    found = RowLosses(seen.nll, seen.entropy, seen.correct > 0, seen.top)
    if everywhere or len(active) == rows:
        return found
    return RowLosses(*(of.new_zeros(rows).index_copy_(0, active, of) for of in found))
