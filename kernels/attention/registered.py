"""Operation `attention`: packed rows, documents isolated, under the name `tracestill` in transformers.

    register("auto", device="cuda", dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="tracestill")
    model(input_ids, position_ids=..., use_cache=False, cu_seq_lens_q=cu, cu_seq_lens_k=cu,
          max_length_q=longest, max_length_k=longest)

With `cu_seq_lens_q` a row's documents never see each other. Without it (evaluation, generation) this is
transformers' own SDPA with the masks that transformers makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tracestill.kernels.attention.backends import Choice, choose, varlen_attention
from tracestill.kernels.attention.groups import grouped_attention, groups_of

NAME = "tracestill"
_chosen: Choice | None = None


def register(backend: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Choice:
    """Registers `attn_implementation="tracestill"` and returns the backend chosen and why, for the start-up log.

    Raises ValueError where `backend` cannot run on `device` with activations of `dtype`.
    """
    global _chosen
    _chosen = choose(backend, device, dtype)
    AttentionInterface.register(NAME, dispatch)
    AttentionMaskInterface.register(NAME, mask)
    return _chosen


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | torch.Tensor = 0,
    kv_offset: int = 0,
    attention_mask: torch.Tensor | None = None,  # (batch, kv_length) bool
    **kwargs: Any,
) -> torch.Tensor | None:
    """The mask that transformers builds for this implementation: none for whole rows, else that of SDPA.

    Whole rows without padding need none: `attention` isolates the documents by cu_seqlens. (transformers would
    make a (T, T) mask of the positions that restart in a packed row.)
    """
    if attention_mask is None and q_length == kv_length:
        return None
    return sdpa_mask(
        batch_size=batch_size,
        q_length=q_length,
        kv_length=kv_length,
        q_offset=q_offset,
        kv_offset=kv_offset,
        attention_mask=attention_mask,
        **kwargs,
    )


def dispatch(
    module: torch.nn.Module,
    *tensors: Any,
    exchange: Callable[..., tuple[torch.Tensor, None]] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """The function transformers calls in every layer: `attention`, or `exchange` of a forward pass that names one,
    which takes the same arguments and calls it (sequence parallelism: some heads of a row that ranks share)."""
    return (attention if exchange is None else exchange)(module, *tensors, **options)


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, Hq, T, d)
    key: torch.Tensor,  # (B, Hkv, T, d)
    value: torch.Tensor,  # (B, Hkv, T, dv)
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    cu_seq_lens_q: torch.Tensor | None = None,  # (S + 1,) int32
    max_length_q: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:  # (B, T, Hq, dv)
    """Attention of ordinary or packed rows, as described above.

    Raises ValueError for what the backend cannot do, and for packed rows given without cu_seqlens.
    """
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    for name in ("s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ValueError(f"attention '{NAME}' does not support {name} ({type(module).__name__})")
    if cu_seq_lens_q is None:
        return _unpacked(
            module, query, key, value, attention_mask, dropout, scaling, sliding_window, causal, softcap, kwargs
        )
    if attention_mask is not None:
        raise ValueError("packed rows take no attention_mask: cu_seqlens already isolates the documents")
    if query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise ValueError(
            f"packed attention takes one row and no cache (use_cache=False); got {tuple(query.shape)} queries"
            f" and {tuple(key.shape)} keys"
        )
    if not causal:
        raise ValueError(f"{type(module).__name__} is not causal; packed attention is")
    backend = _chosen.backend if _chosen is not None and query.is_cuda else "sdpa"
    if backend != "sdpa":
        longest = query.shape[2] if max_length_q is None else int(max_length_q)
        return varlen_attention(
            backend, query, key, value, cu_seq_lens_q, longest, scaling, sliding_window, softcap, dropout
        ), None
    if softcap is not None:
        raise ValueError("attention backend 'sdpa' has no softcap; force 'flash-2' (pip install flash-attn) on a GPU")
    groups = groups_of(cu_seq_lens_q)
    if groups.total != query.shape[2]:
        raise ValueError(f"cu_seqlens end at {groups.total}, but the row holds {query.shape[2]} tokens")
    return grouped_attention(
        query, key, value, groups, scale=scaling, window=sliding_window, dropout=dropout
    ).contiguous(), None


_checked: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # position_ids -> whether they restart inside a row


def _restarts(positions: torch.Tensor) -> bool:  # (B, T)
    """Whether a row's positions do not simply count up. Looked at once a tensor, not once a layer."""
    if positions not in _checked:
        _checked[positions] = bool((positions.diff(dim=1) != 1).any())
    return _checked[positions]


def _unpacked(module, query, key, value, attention_mask, dropout, scaling, window, causal, softcap, kwargs):
    """Ordinary rows: transformers' SDPA; the window is ours where `mask` left the mask away."""
    length = query.shape[2]
    if attention_mask is None and length > 1:
        positions = kwargs.get("position_ids")
        if positions is not None and positions.ndim == 2 and _restarts(positions):
            raise ValueError(
                "positions restart inside a row but no cu_seq_lens_q was given: documents would see each other"
            )
        if window is not None and length == key.shape[2] > window and causal:
            at = torch.arange(length, device=query.device)
            distance = at[:, None] - at[None, :]
            attention_mask = ((distance >= 0) & (distance < window))[None, None]
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, causal, softcap=softcap)
