"""Which attention backend a machine can run, and the calls to those that take a ragged row as it is.

All of them take (T, heads, dim) tensors and int32 cu_seqlens, and are causal within each document:

- flash-4: `flash_attn.cute` (pip install flash-attn-4), Hopper and Blackwell
- flash-3: `flash_attn_interface`, built from the flash-attention repository's `hopper` folder, Hopper
- flash-2: `flash_attn` (pip install flash-attn), Ampere and later; the only one here with a softcap
- varlen: `torch.nn.attention.varlen`, part of torch, Ampere and later
- sdpa: torch's scaled_dot_product_attention, document by document in groups; runs anywhere
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch

BACKENDS = ("flash-4", "flash-3", "flash-2", "varlen", "sdpa")  # the order in which `auto` prefers them
HALF = (torch.float16, torch.bfloat16)
INSTALL = {
    "flash-4": "pip install flash-attn-4",
    "flash-3": "build the hopper folder of https://github.com/Dao-AILab/flash-attention",
    "flash-2": "pip install flash-attn --no-build-isolation",
    "varlen": "pip install 'torch>=2.11'",
}


class Choice(NamedTuple):
    backend: str
    reason: str


@lru_cache
def _present(name: str) -> bool:
    """True if a module of this dotted name can be found, without importing it or failing on a missing parent."""
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def _installed(backend: str) -> bool:
    if backend == "flash-4":
        return _present("flash_attn.cute")
    if backend == "flash-3":
        return _present("flash_attn_interface")
    if backend == "flash-2":
        # flash-attn-4 installs into the same namespace, without the CUDA extension of version 2
        return _present("flash_attn") and _present("flash_attn_2_cuda")
    return _present("torch.nn.attention.varlen")


def obstacle(backend: str, device: torch.device | str, dtype: torch.dtype) -> str | None:
    """Why `backend` cannot run on `device` with activations of `dtype`, and what would help; None if it can."""
    if backend == "sdpa":
        return None
    device = torch.device(device)
    if device.type != "cuda":
        return f"it runs on CUDA devices, not on '{device.type}'; use 'sdpa' or 'auto'"
    if dtype not in HALF:
        return f"it takes bfloat16 or float16, not {str(dtype).removeprefix('torch.')}; train in bf16 or use 'sdpa'"
    if not _installed(backend):
        return f"it is not installed; {INSTALL[backend]}"
    if torch.version.hip is None:
        major, minor = torch.cuda.get_device_capability(device)
        wanted = {"flash-4": (9, 10), "flash-3": (9,)}.get(backend)
        if major < 8 or (wanted is not None and major not in wanted):
            names = " or ".join(f"{m}.x" for m in wanted) if wanted else "8.0 or later"
            return f"it needs compute capability {names}; this device has {major}.{minor}"
    elif backend != "flash-2":
        return "it needs an NVIDIA device"
    return None


def backends(device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> dict[str, str]:
    """Every backend in order of preference -> "ready", or what keeps it from running here."""
    return {name: obstacle(name, device, dtype) or "ready" for name in BACKENDS}


def choose(name: str = "auto", device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32) -> Choice:
    """The backend that `name` (one of BACKENDS, or `auto` for the best) stands for, and the reason.

    Raises ValueError for an unknown name, or one that cannot run here, saying what to install or change.
    """
    if name == "auto":
        if torch.device(device).type != "cuda":
            return Choice("sdpa", f"the other backends run on CUDA devices, not on '{torch.device(device).type}'")
        state = backends(device, dtype)
        best = next(backend for backend in BACKENDS if state[backend] == "ready")
        passed = [f"{backend}: {state[backend]}" for backend in BACKENDS[: BACKENDS.index(best)]]
        return Choice(best, "best available" + (f" ({'; '.join(passed)})" if passed else ""))
    if name not in BACKENDS:
        raise ValueError(f"unknown attention backend '{name}'; known: auto, {', '.join(BACKENDS)}")
    problem = obstacle(name, device, dtype)
    if problem is not None:
        raise ValueError(f"attention backend '{name}' cannot run: {problem}")
    return Choice(name, "forced by the recipe")


@lru_cache
def function_of(backend: str) -> tuple[Callable[..., Any], frozenset[str]]:
    """The backend's varlen function and the names of its parameters."""
    if backend == "flash-4":
        from flash_attn.cute import flash_attn_varlen_func as function
    elif backend == "flash-3":
        from flash_attn_interface import flash_attn_varlen_func as function
    elif backend == "flash-2":
        from flash_attn import flash_attn_varlen_func as function
    else:
        from torch.nn.attention.varlen import varlen_attn as function
    return function, frozenset(inspect.signature(function).parameters)


def varlen_attention(
    backend: str,
    query: torch.Tensor,  # (1, Hq, T, d)
    key: torch.Tensor,  # (1, Hkv, T, d)
    value: torch.Tensor,  # (1, Hkv, T, dv)
    cu_seqlens: torch.Tensor,  # (S + 1,) int32 on the same device
    longest: int,
    scale: float | None,
    window: int | None,  # tokens a query sees, its own included
    softcap: float | None,
    dropout: float,
) -> torch.Tensor:  # (1, T, Hq, dv)
    """One ragged row through a backend's varlen kernel. Raises ValueError for an option the backend lacks."""
    function, parameters = function_of(backend)
    if query.dtype not in HALF:
        raise ValueError(f"attention backend '{backend}' takes bfloat16 or float16; got {query.dtype}")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    # kernels count the tokens to the left of the query; models count the query too
    left = -1 if window is None else window - 1
    if backend == "varlen":
        if dropout:
            raise ValueError("attention backend 'varlen' has no dropout; set attention_dropout to 0")
        if softcap is not None:
            raise ValueError(f"attention backend 'varlen' has no softcap; force 'flash-2' ({INSTALL['flash-2']})")
        options: dict[str, Any] = {"window_size": (left, 0), "scale": scale, "enable_gqa": q.shape[1] != k.shape[1]}
        return function(q, k, v, cu_seqlens, cu_seqlens, longest, longest, **options)[None]
    options = {"causal": True, "softmax_scale": scale}
    if window is not None:
        options["window_size"] = (left, 0)
    for option, wanted in (("softcap", softcap), ("dropout_p", dropout or None)):
        if wanted is not None and option not in parameters:
            raise ValueError(f"attention backend '{backend}' has no {option}; force 'flash-2' ({INSTALL['flash-2']})")
        if wanted is not None:
            options[option] = wanted
    lengths = {"max_seqlen_q": longest, "max_seqlen_k": longest}
    options.update({k_: v_ for k_, v_ in lengths.items() if k_ in parameters})
    out = function(q, k, v, cu_seqlens_q=cu_seqlens, cu_seqlens_k=cu_seqlens, **options)
    # some versions return (out, log-sum-exp)
    return (out[0] if isinstance(out, tuple) else out)[None]
