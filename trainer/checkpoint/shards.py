"""How tensors lie in the files of a checkpoint: as the ranks held them, whole or in pieces.

A tensor that a file holds whole has its own shape. A piece of one has the shape (n,), and the file's header says under
``shards`` where it begins in the flattened tensor, and that one's shape: ``{"parameter/a": [1024, [64, 32]]}``. Whoever
needs some elements of a tensor takes them from all pieces that have some. Checkpoints of format 2 hold whole tensors
only.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError

HEADER = "shards"


Room = dict[str, Tensor]  # key -> CPU memory for a copy, which may serve again: to touch it first costs most of a save


def touch(room: Room) -> None:
    """Have the system find the memory of all copies, a page at a time: what is only reserved until then."""
    for kept in room.values():
        if kept.numel():
            kept.reshape(-1).view(torch.uint8).numpy()[:: mmap.PAGESIZE] = 0


@dataclass(frozen=True)
class Content:
    """What goes into one file: copies in CPU memory, of which ``room`` keeps hold. Without ``copied``, nothing but that
    room is made."""

    room: Room
    copied: bool = True
    tensors: dict[str, Tensor] = field(default_factory=dict)
    places: dict[str, tuple[int, tuple[int, ...]]] = field(default_factory=dict)  # of pieces: start, whole shape

    def add(self, key: str, tensor: Tensor) -> None:
        kept = self.room.get(key)
        if kept is None or (kept.shape, kept.dtype) != (tensor.shape, tensor.dtype):
            kept = self.room[key] = torch.empty(tensor.shape, dtype=tensor.dtype)
        self.tensors[key] = kept.copy_(tensor.detach()) if self.copied else kept

    def add_piece(self, key: str, part: Tensor, start: int, shape: tuple[int, ...]) -> None:
        """``part`` (n,) is elements [start, start + n) of a flattened tensor of this shape, maybe all of it."""
        self.add(key, part)
        if len(part) == torch.Size(shape).numel():
            self.tensors[key] = self.tensors[key].view(shape)
        else:
            self.places[key] = start, shape

    def header(self) -> dict[str, str]:
        return {HEADER: json.dumps(self.places)}


@dataclass(frozen=True)
class Shard:
    """What one file holds of a tensor: elements [start, start + length) of it, flattened."""

    file: str
    key: str
    dtype: str  # as torch names it
    start: int
    length: int
    shape: tuple[int, ...]  # of the whole tensor


def shards_of(name: str, file: Any) -> list[Shard]:
    """Everything in an open safetensors file."""
    places = json.loads((file.metadata() or {}).get(HEADER, "{}"))
    found = []
    for key in file.keys():  # noqa: SIM118  # it is no dictionary
        tensor = file.get_tensor(key)  # mapped, not read
        start, shape = places.get(key, (0, tensor.shape))
        dtype = str(tensor.dtype).removeprefix("torch.")
        found.append(Shard(name, key, dtype, start, tensor.numel(), tuple(shape)))
    return found


class Stored:
    """The tensors of a checkpoint whose files this rank can read itself."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        """Raises InputError if one of these files cannot be read."""
        self.path = path
        try:
            self.files = {name: safe_open(path / name, framework="pt") for name in names}
            self.index = index_of(shard for name, file in self.files.items() for shard in shards_of(name, file))
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: cannot be read ({error})") from error

    def order(self, keys: Collection[str]) -> list[str]:
        """In which order whole tensors are asked for, and which besides."""
        return sorted(keys)

    def fill(self, target: Tensor, key: str, start: int, shape: tuple[int, ...]) -> None:
        """Write elements [start, start + n) of a tensor of this shape into ``target`` (n,).

        Raises InputError if the checkpoint has no such tensor, one of another shape, or not all of these elements.
        """
        last, filled = start + len(target), 0
        for shard in self.all_of(key, shape):
            low, high = max(start, shard.start), min(last, shard.start + shard.length)
            if low < high:
                part = elements(self.files[shard.file], key, low - shard.start, high - shard.start)
                target[low - start : high - start].copy_(part)
                filled += high - low
        self.check(key, filled, len(target))

    def whole(self, key: str, shape: tuple[int, ...] | None = None) -> Tensor:
        """A whole tensor; ``shape`` is what it has to have, if given. Raises InputError as ``fill``."""
        if shape is None:
            shape = self.index[key][0].shape if key in self.index else ()
        dtype = getattr(torch, self.all_of(key, shape)[0].dtype)
        flat = torch.empty(torch.Size(shape).numel(), dtype=dtype)
        self.fill(flat, key, 0, shape)
        return flat.view(shape)

    def all_of(self, key: str, shape: tuple[int, ...]) -> list[Shard]:
        if key not in self.index:
            raise InputError(f"{self.path}: holds no '{key}'; it belongs to another student")
        stored = self.index[key][0].shape
        if stored != shape:
            raise InputError(f"{self.path}: '{key}' has shape {stored}, the student's {shape}; it is another student")
        return self.index[key]

    def check(self, key: str, filled: int, wanted: int) -> None:
        if filled != wanted:
            found = f"has {filled} of {wanted} elements of '{key}'"
            raise InputError(f"{self.path}: {found}; its files do not fit together")


def index_of(shards: Iterable[Shard]) -> dict[str, list[Shard]]:
    found: dict[str, list[Shard]] = {}
    for shard in shards:
        found.setdefault(shard.key, []).append(shard)
    return found


def elements(file: Any, key: str, first: int, last: int) -> Tensor:
    """(last - first,) elements of what a file holds as ``key``, flattened; only rows that hold them are read."""
    part = file.get_slice(key)
    shape = part.get_shape()
    if not shape:
        return file.get_tensor(key).view(1)[first:last]
    row = torch.Size(shape[1:]).numel()
    top = first // row
    return part[top : -(-last // row)].reshape(-1).narrow(0, first - top * row, last - first)
