"""Reading a checkpoint whose files lie on several hosts' disks: each rank reads those of its own number.

On as many ranks and in the same stage that is nearly all that a rank needs. What some rank needs and does not have is
sent: the rank that has a piece of it sends it to all the others, one piece more of memory on each device for a moment.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from tracestill.trainer.checkpoint.files import rank_of
from tracestill.trainer.checkpoint.shards import Shard, Stored, elements, index_of
from tracestill.trainer.ranks.collectives import collective_device, gather_json, together

Need = tuple[str, int, int]  # elements [start, start + length) of the tensor of this name


class Parts(Stored):
    """As ``Stored``; all ranks ask for the same keys in the same order, ``order`` says in which."""

    def __init__(self, path: Path, names: Collection[str], needs: Collection[Need]) -> None:
        """``names`` of all files, ``needs`` of this rank. Called on every rank. Raises InputError on all of them if one
        cannot read its own."""
        rank, ranks = dist.get_rank(), dist.get_world_size()
        self.readers = {name: rank_of(name) % ranks for name in names}

        def read() -> None:
            super(Parts, self).__init__(path, [name for name in names if self.readers[name] == rank])

        together(read, f"{path}: cannot be read")
        lacking = sorted({key for key, *place in needs if not self.holds(key, *place)})
        told = gather_json([lacking, [asdict(shard) for held in self.index.values() for shard in held]])
        self.sent = {key for keys, _ in told for key in keys}
        every = [Shard(**{**about, "shape": tuple(about["shape"])}) for _, shards in told for about in shards]
        self.index, self.asked = index_of(every), set[str]()
        for key in sorted(self.sent & self.index.keys()):  # else a rank would wait for one that has given up
            shards = self.index[key]
            self.check(key, sum(shard.length for shard in shards), torch.Size(shards[0].shape).numel())

    def holds(self, key: str, start: int, length: int) -> bool:
        """Whether this rank's own files have all of these elements."""
        found = 0
        for shard in self.index.get(key, ()):
            found += max(0, min(start + length, shard.start + shard.length) - max(start, shard.start))
        return found == length

    def order(self, keys: Collection[str]) -> list[str]:
        return sorted({*keys, *self.sent} - self.asked)

    def fill(self, target: Tensor, key: str, start: int, shape: tuple[int, ...]) -> None:
        last, filled = start + len(target), 0
        self.asked.add(key)
        for shard in self.all_of(key, shape):
            low, high = max(start, shard.start), min(last, shard.start + shard.length)
            if key in self.sent:
                part = self.receive(shard)[max(low - shard.start, 0) : max(high - shard.start, 0)]
            elif low < high and shard.file in self.files:
                part = elements(self.files[shard.file], key, low - shard.start, high - shard.start)
            else:
                continue
            if low < high:
                target[low - start : high - start].copy_(part)
                filled += high - low
        self.check(key, filled, len(target))

    def receive(self, shard: Shard) -> Tensor:
        """(length,) all of a piece. Called on every rank."""
        if shard.file in self.files:
            tensor = elements(self.files[shard.file], shard.key, 0, shard.length).to(collective_device())
        else:
            tensor = torch.empty(shard.length, dtype=getattr(torch, shard.dtype), device=collective_device())
        dist.broadcast(tensor.view(torch.uint8), src=self.readers[shard.file])  # bytes: every bit stays, in any type
        return tensor
