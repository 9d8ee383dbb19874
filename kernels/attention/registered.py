"""Operation `attention`: packed rows, documents isolated, each backend under a name of its own in transformers.

    choice = choose("auto", device="cuda", dtype=torch.bfloat16, needs=needs_of(config))
    model = AutoModelForCausalLM.from_config(config, attn_implementation=register(choice.backend))
    model(input_ids, position_ids=..., use_cache=False, cu_seq_lens_q=cu, cu_seq_lens_k=cu,
          max_length_q=longest, max_length_k=longest)

The name stands in the model's config, so models of one process may have different backends (each needs a config of
its own). With `cu_seq_lens_q` a row's documents never see each other. Without it (evaluation, generation) this is
transformers' own SDPA with the masks that transformers makes, whatever the backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from tracestill.kernels.attention.backend import Backend
from tracestill.kernels.attention.ordinary import ordinary_attention

UNMASKED = "-unmasked"  # ends the second name of a backend, for which transformers makes no masks
_names: dict[Backend, str] = {}


def register(backend: Backend) -> str:
    """The `attn_implementation` by which transformers calls `backend`: the same for every model of this process.

    It is a number: transformers takes a name with "flash" in it for one of its own, and two backends of different
    users may have the same.
    """
    if backend not in _names:
        name = _names[backend] = f"tracestill-{len(_names)}"
        for each in names(name):
            AttentionInterface.register(each, partial(dispatch, partial(attention, backend)))
        AttentionMaskInterface.register(name, mask)
    return _names[backend]


def names(name: str) -> tuple[str, str]:
    """Both names of the attention that ``register`` named: with transformers' masks, and without."""
    return name, name + UNMASKED


@contextmanager
def unmasked(config: Any) -> Iterator[None]:
    """Meanwhile transformers makes no mask for a model of this config, for forward passes with `cu_seq_lens_q`.

    Else it looks at the positions whether a row is packed, and makes the host wait for the device to tell.
    """
    name = config._attn_implementation
    config._attn_implementation = names(name)[name in _names.values()]  # others' attention has no second name
    try:
        yield
    finally:
        config._attn_implementation = name


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
    attend: Callable[..., tuple[torch.Tensor, None]],
    module: torch.nn.Module,
    *tensors: Any,
    exchange: Callable[..., tuple[torch.Tensor, None]] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls in every layer: `attend`, which is `attention` of the model's own backend, or
    `exchange` of a forward pass that names one, which is given it and calls it with the same arguments (sequence
    parallelism: some heads of a row that ranks share)."""
    if exchange is None:
        return attend(module, *tensors, **options)
    return exchange(attend, module, *tensors, **options)


def attention(
    backend: Backend,
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
            raise ValueError(f"attention does not support {name} ({type(module).__name__})")
    if cu_seq_lens_q is None:
        return ordinary_attention(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scale=scaling,
            window=sliding_window,
            causal=causal,
            softcap=softcap,
            positions=kwargs.get("position_ids"),
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
    wanted = {"window": sliding_window, "softcap": softcap, "dropout": dropout or None}
    options = {name: value for name, value in wanted.items() if value is not None}
    for name in options:  # `choose` has looked at what the model's config says of it
        if not getattr(backend, name):
            raise ValueError(f"attention backend '{backend}' has no {name} ({type(module).__name__} uses it)")
    if problem := backend.misfit(query.device, query.dtype):
        raise ValueError(f"attention backend '{backend}' {problem}")
    longest = query.shape[2] if max_length_q is None else int(max_length_q)
    return backend.attend(query, key, value, cu_seq_lens_q, longest, scale=scaling, **options), None
