"""Reading a checkpoint whose files lie on several hosts' disks: the rank that has a tensor sends it to all the others.

A tensor travels whole, and each rank takes its piece of it, as from a file that it can read itself: one tensor more
of memory on each device for a moment. All ranks ask for the same tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor

from tracestill.trainer.checkpoint.files import rank_file
from tracestill.trainer.ranks.collectives import collective_device, gather_json, together


@dataclass(frozen=True)
class Part:
    """One file, on the disk of rank ``reader``; it answers as an open safetensors file does."""

    file: Any  # open on the reader, None elsewhere
    reader: int
    about: dict[str, tuple[str, list[int]]]  # name of a tensor -> its type and shape

    def keys(self) -> Iterable[str]:
        return self.about.keys()

    def get_slice(self, key: str) -> Rows:
        return Rows(self, key)

    def get_tensor(self, key: str) -> Tensor:
        """Called on every rank."""
        dtype, shape = self.about[key]
        if self.file is None:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=collective_device())
        else:
            tensor = self.file.get_tensor(key).to(collective_device())
        dist.broadcast(tensor.view(-1).view(torch.uint8), src=self.reader)  # bytes: every bit stays, in any type
        return tensor


@dataclass(frozen=True)
class Rows:
    """A tensor whose shape is known before it is sent."""

    part: Part
    key: str

    def get_shape(self) -> list[int]:
        return self.part.about[self.key][1]

    def __getitem__(self, rows: slice) -> Tensor:
        return self.part.get_tensor(self.key)[rows]


def open_parts(path: Path, ranks: int) -> list[Part]:
    """The files that ``ranks`` ranks wrote, each read by the rank of its number, modulo the ranks that there are now.

    Called on every rank. Raises InputError on all of them if one cannot open its own.
    """
    rank, world = dist.get_rank(), dist.get_world_size()
    own: dict[int, Any] = {}

    def open_own() -> None:
        for number in range(rank, ranks, world):
            own[number] = safe_open(path / rank_file(number), framework="pt")

    together(open_own, f"{path}: cannot be read")
    about = gather_json({number: describe(file) for number, file in own.items()})
    return [Part(own.get(n), n % world, about[n % world][str(n)]) for n in range(ranks)]


def describe(file: Any) -> dict[str, tuple[str, list[int]]]:
    tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # mapped, not read
    return {key: (str(t.dtype).removeprefix("torch."), list(t.shape)) for key, t in tensors.items()}
