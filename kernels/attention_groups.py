"""Attention within each document of a packed row, by plain SDPA: the path for CPUs, and the reference for GPUs.

Documents of similar length are gathered into a right-padded (B, heads, L, dim) batch and go through one causal
SDPA call. Padding lies behind a document, so no real query sees it. A padded slot repeats its *own* document's
last token: its output is dropped, and even a NaN cannot travel from one document to another through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

CALL_COST = 1024  # what one more SDPA call costs, in query-key pairs (0.03 ms of 0.1 ms for 64 x 64, 4 heads of 32)


@dataclass
class Groups:
    """How the documents of one row fall into padded batches; computed once a row, used by every layer."""

    shapes: list[tuple[int, int]]  # (B, L) of each group
    gather: torch.Tensor  # (R,) int64: row position that each padded slot reads; R = sum of B * L
    scatter: torch.Tensor  # (T,) int64: padded slot in which each row position lies
    total: int  # T
    bands: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # (L, window) -> mask

    def band(self, length: int, window: int) -> torch.Tensor:
        """(L, L) bool: query i sees key j with i - window < j <= i."""
        if (length, window) not in self.bands:
            at = torch.arange(length, device=self.gather.device)
            distance = at[:, None] - at[None, :]
            self.bands[length, window] = (distance >= 0) & (distance < window)
        return self.bands[length, window]


def cut_lengths(lengths: np.ndarray) -> list[tuple[int, int]]:
    """Cuts ascending `lengths` (D,) into runs [start, end) that minimise CALL_COST + B * L^2 summed over runs.

    Shortest path over the distinct lengths, so the cost of grouping does not grow with the number of documents.
    """
    sizes, first = np.unique(lengths, return_index=True)  # (U,)
    ends = np.append(first, len(lengths)).astype(np.float64)  # documents before each distinct size
    best = np.zeros(len(sizes) + 1)
    came = np.zeros(len(sizes) + 1, dtype=np.int64)
    for j in range(1, len(sizes) + 1):
        cost = best[:j] + CALL_COST + (ends[j] - ends[:j]) * float(sizes[j - 1]) ** 2
        came[j] = cost.argmin()
        best[j] = cost[came[j]]
    runs, j = [], len(sizes)
    while j:
        runs.append((int(ends[came[j]]), int(ends[j])))
        j = int(came[j])
    return runs[::-1]


def group_documents(cu_seqlens: torch.Tensor) -> Groups:  # (S + 1,) int32
    """Groups the segments of a row. The result depends on cu_seqlens alone."""
    bounds = cu_seqlens.cpu().numpy().astype(np.int64)
    lengths = np.diff(bounds)
    if len(bounds) < 2 or bounds[0] != 0 or lengths.min() < 0:
        raise ValueError(f"cu_seqlens must ascend from 0; got {bounds[:8].tolist()}")
    starts, lengths = bounds[:-1][lengths > 0], lengths[lengths > 0]
    order = np.argsort(lengths, kind="stable")
    total = int(bounds[-1])
    gather, shapes = [], []
    scatter = np.empty(total, dtype=np.int64)
    slot = 0
    for begin, end in cut_lengths(lengths[order]):
        documents = order[begin:end]
        longest = int(lengths[documents[-1]])
        at = np.arange(longest)
        inside = np.minimum(at, lengths[documents, None] - 1)  # (B, L): padding repeats the last token
        rows = starts[documents, None] + inside
        gather.append(rows.ravel())
        shapes.append((len(documents), longest))
        real = at < lengths[documents, None]
        scatter[rows[real]] = slot + np.flatnonzero(real.ravel())
        slot += rows.size
    device = cu_seqlens.device
    return Groups(
        shapes, torch.from_numpy(np.concatenate(gather)).to(device), torch.from_numpy(scatter).to(device), total
    )


# cu_seqlens tensor -> (its version, groups). Keyed by identity and freed with the tensor: one row, one grouping.
_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def groups_of(cu_seqlens: torch.Tensor) -> Groups:
    """`group_documents`, computed once for each cu_seqlens tensor."""
    found = _known.get(cu_seqlens)
    if found is None or found[0] != cu_seqlens._version:
        found = (cu_seqlens._version, group_documents(cu_seqlens))
        _known[cu_seqlens] = found
    return found[1]


class _Gather(torch.autograd.Function):
    """x[gather]; a padded slot's gradient is dropped, so that backward is an index_select too, not an index_add."""

    @staticmethod
    def forward(ctx, x, gather, scatter):
        ctx.save_for_backward(scatter)
        return x.index_select(0, gather)

    @staticmethod
    def backward(ctx, grad):
        (scatter,) = ctx.saved_tensors
        return grad.index_select(0, scatter), None, None


class _Scatter(torch.autograd.Function):
    """y[scatter]; padded slots get a gradient of exactly zero."""

    @staticmethod
    def forward(ctx, y, scatter):
        ctx.save_for_backward(scatter)
        ctx.rows = len(y)
        return y.index_select(0, scatter)

    @staticmethod
    def backward(ctx, grad):
        (scatter,) = ctx.saved_tensors
        whole = grad.new_zeros((ctx.rows, *grad.shape[1:]))
        return whole.index_copy_(0, scatter, grad), None


def sdpa(
    query: torch.Tensor,  # (B, Hq, L, d)
    key: torch.Tensor,  # (B, Hkv, L, d)
    value: torch.Tensor,  # (B, Hkv, L, dv)
    groups: Groups,
    scale: float | None,
    window: int | None,
    dropout: float,
) -> torch.Tensor:  # (B, Hq, L, dv)
    """Causal attention of equally long rows, in a window of `window` tokens (itself included) where given."""
    length = query.shape[2]
    mask = groups.band(length, window) if window is not None and window < length else None
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=mask is None,
        dropout_p=dropout,
        scale=scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def grouped_attention(
    query: torch.Tensor,  # (1, Hq, T, d)
    key: torch.Tensor,  # (1, Hkv, T, d)
    value: torch.Tensor,  # (1, Hkv, T, dv)
    groups: Groups,
    *,
    scale: float | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:  # (1, T, Hq, dv)
    """Causal attention within each document of the row. `window` counts the query's own token."""
    if len(groups.shapes) == 1 and groups.shapes[0][0] == 1:
        return sdpa(query, key, value, groups, scale, window, dropout).transpose(1, 2)
    padded = [_Gather.apply(x[0].transpose(0, 1), groups.gather, groups.scatter) for x in (query, key, value)]
    sizes = [batch * length for batch, length in groups.shapes]
    outputs = []
    for (batch, length), parts in zip(groups.shapes, zip(*(x.split(sizes) for x in padded), strict=True), strict=True):
        q, k, v = (x.unflatten(0, (batch, length)).transpose(1, 2) for x in parts)
        outputs.append(sdpa(q, k, v, groups, scale, window, dropout).transpose(1, 2).flatten(0, 1))
    return _Scatter.apply(torch.cat(outputs), groups.scatter)[None]
