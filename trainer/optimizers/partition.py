"""Optimizers of whole matrices on parameters that ZeRO has cut up.

From stage 1 on DeepSpeed gives its optimizer flat fp32 tensors, each of which holds this rank's pieces of many
parameters. What works element by element does not notice. What needs rows, columns or whole matrices is told here
which pieces lie where on all ranks, and how they come together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ROUND = 64_000_000  # elements of this rank's pieces that are exchanged at a time: temporary memory is a few times that


@dataclass(frozen=True)
class Part:
    """Where a parameter lies in the flat tensors of the ranks that share it."""

    name: str
    shape: tuple[int, ...]
    starts: tuple[int, ...]  # of each rank's piece in the flattened parameter; one entry if every rank holds all of it
    lengths: tuple[int, ...]
    offset: int  # of this rank's piece in its own flat tensor

    @property
    def matrix(self) -> tuple[int, int, int]:
        """How many matrices, and their rows and columns: of a stack one after the other; a vector is one row."""
        rows, columns = (1, 1, *self.shape)[-2:]
        return torch.Size(self.shape[:-2]).numel(), rows, columns


class Partitioned(torch.optim.Optimizer):
    """An optimizer that knows the pieces in what it updates. ``begin`` is called once, before the first step."""

    def begin(self, parts: dict[Tensor, list[Part]], rank: int) -> None:
        """``parts`` of each tensor that will be updated, in the same order on every rank."""
        self.parts, self.rank = parts, rank

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for tensor in group["params"]:
                if tensor.grad is None:
                    continue
                state = self.state[tensor]
                state["step"] = state.get("step", torch.zeros((), dtype=torch.float32)) + 1
                for name in group["moments"]:
                    if name not in state:
                        state[name] = torch.zeros_like(tensor)
                self.update(group, tensor, tensor.grad, state)

    def update(self, group: dict[str, Any], tensor: Tensor, gradient: Tensor, state: dict[str, Any]) -> None:
        """Update a tensor of a group by its gradient. ``state`` counts this ``step`` already, and has the group's
        ``moments``, which begin with zeros."""
        raise NotImplementedError

    def whole_states(self) -> dict[str, Tensor]:
        """Key -> tensor of what is kept for a whole parameter, alike on all ranks; made where it is not there yet."""
        return {}

    def own_states(self) -> dict[str, Tensor]:
        """Likewise, of what this rank alone keeps; of parameters that all ranks hold whole, every rank."""
        return {}


def rounds(parts: Sequence[Part], limit: int = ROUND) -> Iterator[list[Part]]:
    """Parts in their order, so many at a time that no rank has much more than ``limit`` elements of them."""
    held: list[Part] = []
    for part in parts:
        if held and sum(max(one.lengths) for one in [*held, part]) > limit:
            yield held
            held = []
        held.append(part)
    if held:
        yield held


def owners(parts: Sequence[Part], ranks: int) -> list[int]:
    """Who works on which part: the one that has least to do so far, by the cost of a product of the matrix with its own
    transpose. The same on every rank."""
    work, found = [0] * ranks, [0] * len(parts)
    for index in sorted(range(len(parts)), key=lambda i: (-cost(parts[i]), i)):
        found[index] = min(range(ranks), key=lambda rank: (work[rank], rank))
        work[found[index]] += cost(parts[index])
    return found


def cost(part: Part) -> int:
    count, rows, columns = part.matrix
    return count * rows * columns * min(rows, columns)


class Exchange:
    """Pieces of some parts to their owners as whole tensors, and back. Every rank calls it with the same parts."""

    def __init__(self, parts: Sequence[Part], rank: int) -> None:
        self.ranks = len(parts[0].starts)
        self.alone = self.ranks == 1  # every rank holds all of it, and works on it itself
        self.rank = 0 if self.alone else rank
        self.parts = list(parts)
        self.owners = owners(parts, self.ranks)
        by_owner = [
            [p for p, o in zip(self.parts, self.owners, strict=True) if o == rank] for rank in range(self.ranks)
        ]
        self.mine, self.order = by_owner[self.rank], [part for owned in by_owner for part in owned]
        self.out = [sum(part.lengths[self.rank] for part in owned) for owned in by_owner]  # elements to each owner
        self.into = [sum(part.lengths[rank] for part in self.mine) for rank in range(self.ranks)]  # from each rank

    def gather(self, flat: Tensor) -> list[Tensor]:
        """Of this rank's flat tensor and the others': each part that this rank owns, whole, (elements,)."""
        if self.alone:
            return [flat.narrow(0, part.offset, part.lengths[0]) for part in self.mine]
        sent = torch.cat([flat.narrow(0, part.offset, part.lengths[self.rank]) for part in self.order])
        received = torch.empty(sum(self.into), dtype=flat.dtype, device=flat.device)
        dist.all_to_all_single(received, sent, self.into, self.out)
        whole = [torch.empty(sum(part.lengths), dtype=flat.dtype, device=flat.device) for part in self.mine]
        at = 0
        for rank in range(self.ranks):
            for part, tensor in zip(self.mine, whole, strict=True):
                tensor.narrow(0, part.starts[rank], part.lengths[rank]).copy_(received[at : at + part.lengths[rank]])
                at += part.lengths[rank]
        return whole

    def scatter(self, whole: Sequence[Tensor], flat: Tensor) -> None:
        """Write each part that this rank owns, and that others do, into the flat tensors of those who hold pieces."""
        if self.alone:
            for part, tensor in zip(self.mine, whole, strict=True):
                flat.narrow(0, part.offset, part.lengths[0]).copy_(tensor.view(-1))
            return
        pieces = [
            tensor.view(-1).narrow(0, part.starts[rank], part.lengths[rank])
            for rank in range(self.ranks)
            for part, tensor in zip(self.mine, whole, strict=True)
        ]
        sent = torch.cat([flat.new_empty(0), *pieces])
        received = torch.empty(sum(self.out), dtype=flat.dtype, device=flat.device)
        dist.all_to_all_single(received, sent, self.out, self.into)
        at = 0
        for part in self.order:
            flat.narrow(0, part.offset, part.lengths[self.rank]).copy_(received[at : at + part.lengths[self.rank]])
            at += part.lengths[self.rank]
