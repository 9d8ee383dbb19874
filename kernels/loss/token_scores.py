"""What a head says of single tokens: how likely the target is, how sure the model was, and what else it thought of.

The logits are those of `linear_cross_entropy`, no gradient comes from them, and never more than one chunk of them
exists. On a CPU a chunk is worked through in blocks of a few rows, which stay in its cache between one step of the sums
and the next; on a GPU the Triton pass of the loss does the sums.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tracestill.kernels.loss.checks import check_call, check_ranges
from tracestill.kernels.loss.chunks import PAD, TILE, choose_pass, chunk_size, operands, product, rows_of_chunk
from tracestill.kernels.loss.fused import UNCOMPILED
from tracestill.kernels.loss.options import RowOptions, Rows, Seen

BLOCK = 1 << 18  # logits that are worked on at a time on a CPU, 1 MiB in fp32; on a GPU a chunk is one block
FEW = 1 << 14  # tokens of a vocabulary of which NumPy finds the largest sooner than torch does


class TokenScores(NamedTuple):
    """Of the M rows looked at, in their order. fp32 (fp64 for fp64 inputs) where nothing else is said, in nats."""

    nll: Tensor  # (M,) of the target
    top1: Tensor  # (M,) log-probability of the most likely token
    entropy: Tensor | None  # (M,)
    rank: Tensor | None  # (M,) int64: logits that are larger than the target's
    ids: Tensor | None  # (M, k) int64, the most likely first; of equal ones any
    log_probs: Tensor | None  # (M, k)


@torch.no_grad()
@torch.compiler.disable(reason=UNCOMPILED)
def token_scores(
    hidden: Tensor,  # (N, H)
    weight: Tensor,  # (V, H) the head's matrix
    targets: Tensor,  # (N,) int64 in [0, V); read only where `active` says
    *,
    bias: Tensor | None = None,  # (V,)
    active: Tensor | None = None,  # (M,) int64, ascending: the rows to look at; None: all
    entropy: bool = False,
    rank: bool = False,
    k: int = 0,
    chunk_rows: int | None = None,
    logit_scale: float = 1.0,
    softcap: float | None = None,
    backend: str = "auto",
) -> TokenScores:
    """Scores of every row. Options that `linear_cross_entropy` has, too, are its own; `entropy`, `rank` and `k` say
    what is wanted beside nll and top1.

    Raises ValueError for shapes, types or options that do not fit, a `k` that the vocabulary does not have, and on a
    CPU for targets out of range. A row whose logits are not finite has a nll that is not.
    """
    vocabulary, device = len(weight), hidden.device
    if not 0 <= k <= vocabulary:
        raise ValueError(f"k must lie in [0, {vocabulary}], the size of the vocabulary, not {k}")
    if logit_scale <= 0:
        raise ValueError(f"logit_scale must be > 0, or ranks turn round, not {logit_scale}")
    ones = torch.ones(len(hidden), device=device)
    kinds = ones.to(torch.uint8)
    check_call(hidden, weight, targets, ones, kinds, bias, None, None, 2, chunk_rows)
    options = RowOptions(float(logit_scale), softcap, bias=None if bias is None else bias.detach())
    if active is not None:
        hidden, targets = hidden.index_select(0, active), targets.index_select(0, active)
    if not hidden.is_cuda:
        check_ranges(targets, kinds[:0], vocabulary, 2)
    count, exact = len(hidden), torch.float64 if hidden.dtype == torch.float64 else torch.float32
    found = TokenScores(
        torch.empty(count, dtype=exact, device=device),
        torch.empty(count, dtype=exact, device=device),
        torch.empty(count, dtype=exact, device=device) if entropy else None,
        torch.empty(count, dtype=torch.int64, device=device) if rank else None,
        torch.empty(count, k, dtype=torch.int64, device=device) if k else None,
        torch.empty(count, k, dtype=exact, device=device) if k else None,
    )
    kind, head = operands(hidden, weight, exact)
    fused = choose_pass(backend, hidden)
    size = chunk_size(count, chunk_rows or rows_of_chunk(vocabulary, kind.itemsize, cuda=hidden.is_cuda))
    if chunk_rows is None:
        size = min(-(-size // TILE) * TILE, count)
    width = vocabulary if fused is None else -(-vocabulary // PAD) * PAD
    logits = torch.empty(size, width, dtype=exact if fused is None else kind, device=device)
    block = max(1, size if hidden.is_cuda else BLOCK // vocabulary)
    scratch = torch.empty(min(block, size), vocabulary, dtype=exact, device=device) if fused is None else logits
    for start in range(0, count, max(1, size)):
        end = min(start + size, count)
        z = logits[: end - start, :vocabulary]
        product(hidden[start:end].to(kind), head.t(), out=z)
        if fused is not None:
            seen = of_rows(found, slice(start, end))
            by_triton(fused, z, targets[start:end], options, seen)
            continue
        for first in range(start, end, block):
            part = slice(first, min(first + block, end))
            seen = of_rows(found, part)
            by_blocks(z[part.start - start : part.stop - start], targets[part], options, seen, scratch)
    return found


def of_rows(found: TokenScores, part: slice) -> TokenScores:
    return TokenScores(*(None if each is None else each[part] for each in found))  # type: ignore[arg-type]


def final(z: Tensor, options: RowOptions) -> Tensor:
    """Logits as the softmax sees them, in the place of those that the product left."""
    if options.bias is not None:
        z.add_(options.bias.to(z.dtype))
    if options.logit_scale != 1.0:
        z.mul_(options.logit_scale)
    return z if options.softcap is None else z.div_(options.softcap).tanh_().mul_(options.softcap)


def by_blocks(
    z: Tensor,  # (B, V) as the product left them; overwritten
    targets: Tensor,  # (B,)
    options: RowOptions,
    seen: TokenScores,  # of these rows; written
    scratch: Tensor,  # (B or more, V)
) -> None:
    """A block of rows in plain PyTorch."""
    final(z, options)
    highest, target = z.amax(1), z.gather(1, targets.unsqueeze(1))
    # softmax is one pass of the cache; the largest of it, 1 / sum exp(z - highest), is never too small for a logarithm
    p = torch.softmax(z, 1, out=scratch[: len(z)])
    torch.log(p.amax(1), out=seen.top1)
    torch.sub(highest - target.squeeze(1), seen.top1, out=seen.nll)
    lse = highest - seen.top1
    if seen.rank is not None:
        seen.rank.copy_(torch.count_nonzero(z > target, 1))
    if seen.ids is not None and seen.log_probs is not None:
        values, ids = largest(z, seen.ids.shape[1])
        seen.ids.copy_(ids)
        torch.sub(values, lse.unsqueeze(1), out=seen.log_probs)
    if seen.entropy is not None:
        total = p.sum(1)  # 1 but for rounding, which counts as often as logits are large
        mean = p.mul_(z).sum(1) / total  # torch.sum adds in pairs; a dot product would lose digits
        if not bool(torch.isfinite(mean).all()):  # a logit of -inf: 0 times it is no number
            mean = p.nan_to_num_(nan=0.0).sum(1) / total
        torch.sub(lse, mean, out=seen.entropy).clamp_(min=0)


def largest(z: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """(B, k) values and places of the largest of each row on a CPU, in their order."""
    if z.shape[1] > FEW or k == z.shape[1]:
        return torch.topk(z, k, 1)
    chosen = torch.from_numpy(np.argpartition(z.numpy(), z.shape[1] - k, axis=1)[:, -k:])  # half of torch's time
    values, order = z.gather(1, chosen).sort(1, descending=True)
    return values, chosen.gather(1, order)


def by_triton(
    fused: object,
    z: Tensor,  # (C, V) as the product left them
    targets: Tensor,  # (C,)
    options: RowOptions,
    seen: TokenScores,  # of these rows; written
) -> None:
    """A chunk of rows on a GPU: the sums by the loss's pass, which leaves the logits as they are."""
    rows, column = len(z), targets.unsqueeze(1)
    buffer = torch.empty(len(Seen._fields) - 1, rows, dtype=torch.float32, device=z.device)
    own = Seen(*buffer.unbind(0))._replace(top=torch.empty(rows, dtype=torch.int64, device=z.device))
    given = Rows(targets, torch.ones(rows, device=z.device), None, None, None, None)
    fused(z, given, options, own, gradient=False, short_cut=False)  # type: ignore[operator]
    assert own.top is not None
    ids = torch.cat([column, own.top.unsqueeze(1)], 1)
    target, highest = at(z, ids, options).unbind(1)
    log_sum = own.nll + target
    seen.nll.copy_(own.nll)
    torch.sub(highest, log_sum, out=seen.top1)
    if seen.entropy is not None:
        seen.entropy.copy_(own.entropy)
    plain = z if options.bias is None else z + options.bias.to(z.dtype)
    if seen.rank is not None:
        seen.rank.copy_((plain > plain.gather(1, column)).sum(1))
    if seen.ids is not None and seen.log_probs is not None:
        seen.ids.copy_(torch.topk(plain, seen.ids.shape[1], 1).indices)
        torch.sub(at(z, seen.ids, options), log_sum.unsqueeze(1), out=seen.log_probs)


def at(z: Tensor, ids: Tensor, options: RowOptions) -> Tensor:
    """(C, n) fp32 final logits of some tokens of each row."""
    found = z.gather(1, ids).float()
    if options.bias is not None:
        found = found + options.bias.float()[ids]
    return final(found, RowOptions(options.logit_scale, options.softcap))
