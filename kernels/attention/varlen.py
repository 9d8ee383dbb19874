"""Calls to the attention kernels that take a ragged row as it is: (T, heads, dim) tensors and int32 cu_seqlens."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from typing import Any

import torch


def present(name: str) -> bool:
    """True if a module of this dotted name can be found, without importing it or failing on a missing parent."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def flash_attention(
    module: str,  # that holds flash_attn_varlen_func
    query: torch.Tensor,  # (1, Hq, T, d)
    key: torch.Tensor,  # (1, Hkv, T, d)
    value: torch.Tensor,  # (1, Hkv, T, dv)
    cu_seqlens: torch.Tensor,  # (S + 1,) int32 on the same device
    longest: int,
    *,
    scale: float | None,
    window: int | None = None,
    softcap: float | None = None,
    dropout: float | None = None,
) -> torch.Tensor:  # (1, T, Hq, dv)
    """A row through flash-attention, version 2, 3 or 4. What a version lacks, its record does not offer."""
    options: dict[str, Any] = {"causal": True, "softmax_scale": scale}
    options |= {"max_seqlen_q": longest, "max_seqlen_k": longest}
    if window is not None:
        options["window_size"] = left_of(window)
    if softcap is not None:
        options["softcap"] = softcap
    if dropout is not None:
        options["dropout_p"] = dropout
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    call = importlib.import_module(module).flash_attn_varlen_func
    out = call(q, k, v, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, **options)
    # some versions return (out, log-sum-exp)
    return (out[0] if isinstance(out, tuple) else out)[None]


def torch_varlen(
    query: torch.Tensor,  # (1, Hq, T, d)
    key: torch.Tensor,  # (1, Hkv, T, d)
    value: torch.Tensor,  # (1, Hkv, T, d)
    cu_seqlens: torch.Tensor,  # (S + 1,) int32 on the same device
    longest: int,
    *,
    scale: float | None,
    window: int | None = None,
) -> torch.Tensor:  # (1, T, Hq, d)
    """A row through torch.nn.attention.varlen, which is causal by a window without an end on the left."""
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    call = importlib.import_module("torch.nn.attention.varlen").varlen_attn
    more: dict[str, Any] = {"window_size": left_of(window), "scale": scale}
    if q.shape[1] != k.shape[1] and "enable_gqa" in inspect.signature(call).parameters:  # torch 2.11 asks for no word
        more["enable_gqa"] = True
    return call(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **more)[None]


def left_of(window: int | None) -> tuple[int, int]:
    """Kernels count the tokens to the left of the query, -1 for all; models count the query too."""
    return (-1 if window is None else window - 1, 0)
