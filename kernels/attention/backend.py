"""What there is to know of an attention backend before it is used: one record a backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

FEATURES = {  # of which a record says whether the backend has them
    "window": "window",
    "softcap": "softcap",
    "dropout": "dropout",
    "gqa": "grouped-query attention",
    "value_dim": "values of another size than the keys",
}


@dataclass(frozen=True)
class Needs:
    """What a model asks of its attention: each feature with the setting that asks for it, empty where none does."""

    window: str = ""  # such as sliding_window=4096
    softcap: str = ""
    dropout: str = ""
    gqa: str = ""
    value_dim: str = ""
    head_dim: int = 0  # numbers of a head, the most where they differ; 0: not known
    head_divisor: int = 0  # the largest number that divides them all


@dataclass(frozen=True, eq=False)
class Backend:
    """An implementation of causal attention within each document of a packed row.

    ``attend(query, key, value, cu_seqlens, longest, scale=..., **options)`` takes query (1, Hq, T, d), key (1, Hkv, T,
    d) and value (1, Hkv, T, dv) of one row, the documents' bounds (S + 1,) int32 on the same device, a bound on the
    tokens of a document and the factor of the logits (None: d^-0.5), and returns (1, T, Hq, dv). Of the options
    ``window`` (tokens that a query sees, its own included), ``softcap`` and ``dropout`` (a share) it gets those that
    are in use, and only if the record says that it has them.
    """

    name: str
    attend: Callable[..., Tensor]
    window: bool = False
    softcap: bool = False
    dropout: bool = False
    gqa: bool = False  # fewer heads of keys and values than of queries
    value_dim: bool = False  # values of another size than the keys
    head_dim: int | None = None  # the most numbers of a head, on every device it runs on; None: any
    head_multiple: int = 1  # the numbers of a head are multiples of it
    devices: tuple[str, ...] = ()  # types, such as cuda; empty: any
    dtypes: tuple[torch.dtype, ...] = ()  # of queries, keys and values; empty: any
    oldest: int = 0  # NVIDIA's compute capability, its major number, from ...
    newest: int | None = None  # ... to; None: any later one
    rocm: bool = False  # whether AMD's devices, which torch calls cuda too, will do
    installed: Callable[[], bool] = lambda: True  # asked without importing it
    install: str = ""  # what would install it, in words or as a command

    def __str__(self) -> str:
        return self.name

    def misfit(self, device: torch.device, dtype: torch.dtype) -> str | None:
        """Why tensors of this kind are not for it; None if they are."""
        if self.devices and device.type not in self.devices:
            return f"runs on {' or '.join(self.devices)}, not on '{device.type}'"
        if self.dtypes and dtype not in self.dtypes:
            return f"takes {' or '.join(map(short, self.dtypes))}, not {short(dtype)}; train in bf16"
        return None

    def lack(self, needs: Needs) -> str | None:
        """What a model needs and it has not; None if it has all."""
        for feature, words in FEATURES.items():
            if (why := getattr(needs, feature)) and not getattr(self, feature):
                return f"has no {words} ({why})"
        if self.head_dim is not None and needs.head_dim > self.head_dim:
            return f"has heads of at most {self.head_dim} numbers (head_dim={needs.head_dim})"
        if needs.head_divisor % self.head_multiple:
            return f"has only heads of multiples of {self.head_multiple} numbers (head_dim={needs.head_dim})"
        return None

    def absence(self, device: torch.device) -> str | None:
        """Why this machine does not have it, and what would help; None if it has."""
        if not self.installed():
            return f"is not installed; {self.install}" if self.install else "is not installed"
        if device.type != "cuda":
            return None
        if torch.version.hip is not None:
            return None if self.rocm or not self.devices else "needs an NVIDIA device"
        if not self.oldest:
            return None
        major, minor = torch.cuda.get_device_capability(device)
        if major >= self.oldest and (self.newest is None or major <= self.newest):
            return None
        wanted = f"{self.oldest}.x" if self.newest == self.oldest else f"{self.oldest}.0 to {self.newest}.x"
        wanted = f"{self.oldest}.0 or later" if self.newest is None else wanted
        return f"needs compute capability {wanted}; this device has {major}.{minor}"

    def obstacle(self, device: torch.device, dtype: torch.dtype, needs: Needs) -> str | None:
        """Why it cannot run a model with these ``needs`` here, in words that follow its name; None if it can."""
        return self.misfit(device, dtype) or self.lack(needs) or self.absence(device)


def short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
