"""The attention backends, in the order in which `auto` prefers them, and which of them a model gets on a machine."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch

from tracestill.kernels.attention.backend import Backend, Needs
from tracestill.kernels.attention.groups import row_attention
from tracestill.kernels.attention.varlen import flash_attention, present, torch_varlen

RAGGED: dict[str, Any] = {
    "window": True,
    "gqa": True,
    "head_dim": 256,
    "head_multiple": 8,
    "devices": ("cuda",),
    "dtypes": (torch.bfloat16, torch.float16),
}
SDPA = Backend("sdpa", row_attention, window=True, dropout=True, gqa=True, value_dim=True)
BACKENDS = (
    Backend(
        "flash-4",
        partial(flash_attention, "flash_attn.cute"),
        # It takes a softcap, but releases until May 2026 return a wrong gradient of a ragged row with one, and do not
        # say so (https://github.com/Dao-AILab/flash-attention/pull/2544). Hopper's heads may have 256 numbers.
        **{**RAGGED, "head_dim": 128},
        oldest=9,
        newest=10,
        installed=lambda: all(present(name) for name in ("flash_attn.cute", "cutlass", "quack")),  # what it imports
        install="pip install 'flash-attn-4>=4.0.0b36'",
    ),
    Backend(
        "flash-3",
        partial(flash_attention, "flash_attn_interface"),
        **RAGGED,
        softcap=True,
        oldest=9,
        newest=9,
        installed=lambda: present("flash_attn_interface"),
        install="build the hopper folder of https://github.com/Dao-AILab/flash-attention",
    ),
    Backend(
        "flash-2",
        partial(flash_attention, "flash_attn"),
        **{**RAGGED, "head_multiple": 1},  # it pads them
        softcap=True,
        dropout=True,
        oldest=8,
        rocm=True,
        # flash-attn-4 installs into the same namespace, without the CUDA extension of version 2
        installed=lambda: present("flash_attn") and present("flash_attn_2_cuda"),
        install="pip install flash-attn --no-build-isolation",
    ),
    Backend(
        "varlen",
        torch_varlen,
        **RAGGED,
        oldest=8,
        installed=lambda: present("torch.nn.attention.varlen"),
        install="pip install 'torch>=2.11'",
    ),
    SDPA,
)


class Choice(NamedTuple):
    backend: Backend
    reason: str


def choose(
    wanted: str | Backend = "auto",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    needs: Needs = Needs(),
) -> Choice:
    """The backend for a model with these `needs` (see `needs_of`) on `device`, its activations of `dtype`; and why.

    `wanted` is `auto` (the first of BACKENDS that can), one of them by name, or a backend of your own. Raises
    ValueError for an unknown name, and where it or none can run, saying for each why not, and what would help.
    """
    device = torch.device(device)
    if wanted == "auto":
        passed: dict[str, list[str]] = {}  # reason -> backends
        for backend in BACKENDS:
            problem = backend.obstacle(device, dtype, needs)
            if problem is None:
                return Choice(backend, "best available" + (f" ({said(passed)})" if passed else ""))
            passed.setdefault(problem, []).append(backend.name)
        raise ValueError(f"no backend can run this model here: {said(passed)}")
    found = wanted if isinstance(wanted, Backend) else {backend.name: backend for backend in BACKENDS}.get(wanted)
    if found is None:
        known = ", ".join(backend.name for backend in BACKENDS)
        raise ValueError(f"unknown attention backend '{wanted}'; known: auto, {known}")
    problem = found.obstacle(device, dtype, needs)
    if problem is None:
        return Choice(found, "as asked for")
    able = [backend.name for backend in BACKENDS if not backend.obstacle(device, dtype, needs)]
    if not able and found.lack(needs):
        able = [f"{backend.name} on {backend.devices[0]}" for backend in BACKENDS if not backend.lack(needs)]
    help_ = f"; use {', '.join(able)}" if able else ""
    raise ValueError(f"attention backend '{found}' cannot run: it {problem}{help_}")


def said(passed: dict[str, list[str]]) -> str:
    return "; ".join(f"{', '.join(names)}: {problem}" for problem, names in passed.items())
