"""Attention of ordinary rows, one document each (evaluation, generation): transformers' SDPA, whatever the backend.

SDPA has no softcap. Models that have one (Gemma 2) get theirs written out; it takes memory for every pair of tokens,
which rows of this sort can afford.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import dropout as drop
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_checked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # position_ids -> whether they restart inside a row


def restarts(positions: torch.Tensor) -> bool:  # (B, T)
    """Whether a row's positions do not simply count up. Looked at once a tensor, not once a layer."""
    if positions not in _checked:
        _checked[positions] = bool((positions.diff(dim=1) != 1).any())
    return _checked[positions]


def ordinary_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, Hq, T, d)
    key: torch.Tensor,  # (B, Hkv, S, d), with those of a cache
    value: torch.Tensor,  # (B, Hkv, S, dv)
    mask: torch.Tensor | None,  # (B, 1, T, S) bool, or added to the scores; None: causal
    *,
    dropout: float,
    scale: float | None,
    window: int | None,
    causal: bool,
    softcap: float | None,
    positions: Any,
) -> tuple[torch.Tensor, None]:  # (B, T, Hq, dv)
    """Raises ValueError for packed rows. The window is ours where `registered.mask` left the mask away."""
    length = query.shape[2]
    if mask is None and length > 1:
        if isinstance(positions, torch.Tensor) and positions.ndim == 2 and restarts(positions):
            raise ValueError(
                "positions restart inside a row but no cu_seq_lens_q was given: documents would see each other"
            )
        if causal and length == key.shape[2] and (softcap is not None or (window is not None and length > window)):
            at = torch.arange(length, device=query.device)
            distance = at[:, None] - at[None, :]
            mask = ((distance >= 0) & (distance < (window or length)))[None, None]
    if softcap is not None:
        return capped(query, key, value, mask, dropout, scale, softcap), None
    return sdpa_attention_forward(module, query, key, value, mask, dropout, scale, causal)


def capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,  # None: all keys are seen
    dropout: float,
    scale: float | None,
    softcap: float,
) -> torch.Tensor:  # (B, T, Hq, dv)
    """softmax(softcap tanh(q k / softcap)) v, in the types in which Gemma 2 of transformers computes it."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scale is None else scale)
    scores = softcap * torch.tanh(scores / softcap)
    if mask is not None:
        hidden = torch.finfo(scores.dtype).min  # not -inf: a padded row that sees nothing would be NaN
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    shares = drop(scores.softmax(-1, dtype=torch.float32).to(query.dtype), dropout)
    return (shares @ value).transpose(1, 2).contiguous()
