"""Attention within each document of a packed row, by plain SDPA: the path for CPUs, and the reference for GPUs.

Long documents go through SDPA one by one. Many short ones would pay more for the calls than for the work, so
documents of similar length are gathered into a right-padded (B, heads, L, dim) batch and share one causal call.
Padding lies behind a document, so no real query sees it. A padded slot repeats its *own* document's last token:
its output is dropped, and even a NaN cannot travel from one document to another through it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

# Costs in query-key pairs, measured on a CPU for 4 to 8 heads of 16 to 64, forward and backward.
CALL_COST = 1024  # one more SDPA call
GATHER_COST = 12  # each token of a row that is gathered and scattered


@dataclass
class Groups:
    """How the documents of one row go through SDPA; computed once a row, used by every layer."""

    lengths: list[int]  # of the row's documents, in order
    gather: torch.Tensor | None  # (R,) int64: row position that each padded slot reads; None: one by one
    scatter: torch.Tensor  # (T,) int64: padded slot in which each row position lies
    shapes: list[tuple[int, int]]  # (B, L) of each padded batch; R = sum of B * L
    bands: dict[tuple[int, int], torch.Tensor] = field(default_factory=dict)  # (L, window) -> mask

    @property
    def total(self) -> int:
        """T, the tokens of the row."""
        return sum(self.lengths)

    def band(self, length: int, window: int) -> torch.Tensor:
        """(L, L) bool: query i sees key j with i - window < j <= i."""
        if (length, window) not in self.bands:
            at = torch.arange(length, device=self.scatter.device)
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
    """Groups the segments of a row, or leaves them apart where that costs less. Depends on cu_seqlens alone.

    Raises ValueError if cu_seqlens does not ascend from 0.
    """
    bounds = cu_seqlens.cpu().numpy().astype(np.int64)
    lengths = np.diff(bounds)
    if len(bounds) < 2 or bounds[0] != 0 or lengths.min() < 0 or bounds[-1] == 0:
        raise ValueError(f"cu_seqlens must ascend from 0; got {bounds[:8].tolist()}")
    starts, lengths = bounds[:-1][lengths > 0], lengths[lengths > 0]
    total = int(bounds[-1])
    order = np.argsort(lengths, kind="stable")
    runs = cut_lengths(lengths[order])
    together = GATHER_COST * total + sum(
        CALL_COST + (end - begin) * int(lengths[order[end - 1]]) ** 2 for begin, end in runs
    )
    if CALL_COST * len(lengths) + int((lengths**2).sum()) <= together:
        return Groups(lengths.tolist(), None, torch.arange(total, device=cu_seqlens.device), [])
    gather, shapes = [], []
    scatter = np.empty(total, dtype=np.int64)
    slot = 0
    for begin, end in runs:
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
    index, back = (torch.from_numpy(x).to(cu_seqlens.device) for x in (np.concatenate(gather), scatter))
    return Groups(lengths.tolist(), index, back, shapes)


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
    if groups.gather is None:
        documents = zip(*(x.split(groups.lengths, dim=2) for x in (query, key, value)), strict=True)
        alone = [sdpa(q, k, v, groups, scale, window, dropout).transpose(1, 2) for q, k, v in documents]
        return torch.cat(alone, dim=1)
    padded = [_Gather.apply(x[0].transpose(0, 1), groups.gather, groups.scatter) for x in (query, key, value)]
    sizes = [batch * length for batch, length in groups.shapes]
    outputs = []
    for (batch, length), parts in zip(groups.shapes, zip(*(x.split(sizes) for x in padded), strict=True), strict=True):
        q, k, v = (x.unflatten(0, (batch, length)).transpose(1, 2) for x in parts)
        outputs.append(sdpa(q, k, v, groups, scale, window, dropout).transpose(1, 2).flatten(0, 1))
    return _Scatter.apply(torch.cat(outputs), groups.scatter)[None]


def row_attention(
    query: torch.Tensor,  # (1, Hq, T, d)
    key: torch.Tensor,  # (1, Hkv, T, d)
    value: torch.Tensor,  # (1, Hkv, T, dv)
    cu_seqlens: torch.Tensor,  # (S + 1,) int32
    longest: int,
    *,
    scale: float | None,
    window: int | None = None,
    dropout: float = 0.0,
) -> torch.Tensor:  # (1, T, Hq, dv)
    """The backend `sdpa`. Raises ValueError if cu_seqlens do not ascend from 0 to T."""
    groups = groups_of(cu_seqlens)
    if groups.total != query.shape[2]:
        raise ValueError(f"cu_seqlens end at {groups.total}, but the row holds {query.shape[2]} tokens")
    return grouped_attention(query, key, value, groups, scale=scale, window=window, dropout=dropout).contiguous()
