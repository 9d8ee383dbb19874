"""Adafactor: a matrix's second moment as the product of its rows' and its columns' (Shazeer and Stern 2018,
arXiv:1804.04235), with torch's formula.

Each rank adds up the squares of its own pieces by row and column, and the ranks add these up: two all-reduces of a few
numbers a row and column, and no rank ever needs a whole matrix. The factors are alike on all ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tracestill.trainer.optimizers.groups import Group, parameter_groups
from tracestill.trainer.optimizers.partition import Part, Partitioned
from tracestill.trainer.recipe.optimizers import AdafactorOptions
from tracestill.trainer.recipe.settings import TrainConfig

ROWS, COLUMNS = "row_variance", "column_variance"


def make(student: nn.Module, settings: TrainConfig, **_: Any) -> Adafactor:
    def split(parameter: nn.Parameter, inner: bool) -> Group:
        return {"moments": () if parameter.ndim >= 2 else ("variance",)}

    groups = parameter_groups(student, settings.weight_decay, split)
    return Adafactor(groups, AdafactorOptions(**settings.optimizer.options), {"lr": settings.lr})


class Adafactor(Partitioned):
    def __init__(self, groups: list[Group], options: AdafactorOptions, defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self.options = options
        self.factors: dict[str, Tensor] = {}  # ROWS or COLUMNS/name -> (count, rows) or (count, columns)

    def whole_states(self) -> dict[str, Tensor]:
        for tensor, parts in self.parts.items():
            for part in parts:
                if len(part.shape) >= 2:
                    self.factors_of(part, tensor)
        return self.factors

    def factors_of(self, part: Part, like: Tensor) -> tuple[Tensor, Tensor]:
        count, rows, columns = part.matrix
        for name, size in ((ROWS, rows), (COLUMNS, columns)):
            if f"{name}/{part.name}" not in self.factors:
                zeros = torch.zeros(count, size, dtype=torch.float32, device=like.device)
                self.factors[f"{name}/{part.name}"] = zeros
        return self.factors[f"{ROWS}/{part.name}"], self.factors[f"{COLUMNS}/{part.name}"]

    def update(self, group: Group, tensor: Tensor, gradient: Tensor, state: dict[str, Any]) -> None:
        smallest, step, parts = torch.finfo(torch.float32).eps, float(state["step"]), self.parts[tensor]
        share = step**self.options.decay
        pieces = [Piece(part, tensor, gradient, self.rank) for part in parts]
        sums = added_up([piece.sums() for piece in pieces], parts)
        updates = []
        for part, piece, found in zip(parts, pieces, sums, strict=True):
            if len(part.shape) >= 2:
                by_row, by_column = self.factors_of(part, tensor)
                rows, columns = piece.split(found[1:])
                by_row.lerp_((rows / part.matrix[2]).float(), share)
                by_column.lerp_((columns / part.matrix[1]).float(), share)
                variance = piece.product(by_row, by_column, smallest)
            else:
                variance = piece.view(state["variance"]).lerp_(piece.gradient.square(), share)
            updates.append(variance.clamp(min=smallest**2).rsqrt_().mul_(piece.gradient))
        squares = added_up([update.square().sum(dtype=torch.float64).view(1) for update in updates], parts)
        tensor.mul_(1 - group["lr"] * group["weight_decay"])
        for part, piece, update, found, square in zip(parts, pieces, updates, sums, squares, strict=True):
            root = math.sqrt(torch.Size(part.shape).numel())
            size = (found[0].sqrt() / root).clamp(min=self.options.smallest)
            too_large = (square[0].sqrt() / (root * self.options.clip)).clamp(min=1.0)
            rate = size * min(group["lr"], 1 / math.sqrt(step)) / too_large
            piece.value.sub_(update * rate.float())


class Piece:
    """This rank's piece of a parameter: elements [start, start + n) of it, which lie in ``tensor``."""

    def __init__(self, part: Part, tensor: Tensor, gradient: Tensor, rank: int) -> None:
        self.part, self.rank = part, 0 if len(part.starts) == 1 else rank
        self.value, self.gradient = self.view(tensor), self.view(gradient)

    def view(self, tensor: Tensor) -> Tensor:
        return tensor.view(-1).narrow(0, self.part.offset, self.part.lengths[self.rank])

    def rows(self) -> tuple[int, int, int]:
        """The rows that hold the piece, [first, last) of all rows of the stack, and where it begins in the first."""
        start, columns = self.part.starts[self.rank], self.part.matrix[2]
        return start // columns, -(-(start + len(self.value)) // columns), start % columns

    def sums(self) -> Tensor:
        """float64: the parameter's sum of squares, and of a matrix the gradient's by row and by column."""
        size = self.value.square().sum(dtype=torch.float64).view(1)
        if len(self.part.shape) < 2:
            return size
        count, rows, columns = self.part.matrix
        first, last, begin = self.rows()
        squares = self.gradient.new_zeros(last - first, columns)
        squares.view(-1).narrow(0, begin, len(self.gradient)).copy_(self.gradient).square_()
        by_row = size.new_zeros(count * rows)
        by_row[first:last] = squares.sum(dim=1, dtype=torch.float64)
        by_column = size.new_zeros(count, columns)
        for matrix in range(first // rows, -(-last // rows)):
            low, high = max(first, matrix * rows) - first, min(last, (matrix + 1) * rows) - first
            by_column[matrix] = squares[low:high].sum(dim=0, dtype=torch.float64)
        return torch.cat([size, by_row, by_column.view(-1)])

    def split(self, sums: Tensor) -> tuple[Tensor, Tensor]:
        """(count, rows) and (count, columns) of ``sums`` but the first."""
        count, rows, columns = self.part.matrix
        return sums[: count * rows].view(count, rows), sums[count * rows :].view(count, columns)

    def product(self, by_row: Tensor, by_column: Tensor, smallest: float) -> Tensor:
        """(n,) the second moment that the factors stand for, of this piece's elements."""
        _, rows, _ = self.part.matrix
        first, last, begin = self.rows()
        relative = (by_row / by_row.mean(dim=-1, keepdim=True).clamp(min=smallest)).view(-1)[first:last]
        matrices = torch.arange(first, last, device=relative.device) // rows
        return (relative[:, None] * by_column[matrices]).view(-1).narrow(0, begin, len(self.value))


def added_up(own: list[Tensor], parts: list[Part]) -> list[Tensor]:
    """Each tensor's sum over the ranks that hold pieces; one all-reduce."""
    if len(parts[0].starts) == 1:
        return own
    both = torch.cat(own)
    dist.all_reduce(both)
    return list(both.split([len(one) for one in own]))
