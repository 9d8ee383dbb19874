"""AdamW whose moments are kept in 8 bits, by bitsandbytes (Dettmers et al. 2021, arXiv:2110.02861).

Its moments share a scale in blocks of 256 elements, so an update depends on where blocks begin: of ZeRO's flat pieces
that would depend on the ranks. Each parameter therefore has one rank that keeps its moments, whole; it gets the
gradient's pieces and sends back the update's. Small parameters keep fp32 moments with their pieces.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.loading.four_bits import import_bitsandbytes
from tracestill.trainer.optimizers.groups import MOMENTS, Group, parameter_groups
from tracestill.trainer.optimizers.muon import adam_update
from tracestill.trainer.optimizers.partition import Exchange, Part, Partitioned, rounds
from tracestill.trainer.recipe.optimizers import KEY, Adam8bitOptions
from tracestill.trainer.recipe.settings import TrainConfig

BLOCK = 256  # elements that share a scale; bitsandbytes knows no other
STATES = ("moment_8bit", "square_8bit", "moment_scale", "square_scale")


def make(student: nn.Module, settings: TrainConfig, **_: Any) -> Adam8bit:
    options = Adam8bitOptions(**settings.optimizer.options)

    def split(parameter: nn.Parameter, inner: bool) -> Group:
        elements = getattr(parameter, "ds_numel", parameter.numel())
        return {"moments": () if elements >= options.from_elements else MOMENTS}

    groups = parameter_groups(student, settings.weight_decay, split)
    return Adam8bit(groups, options, {"lr": settings.lr, "betas": settings.betas, "eps": settings.eps})


def functions() -> Any:
    """bitsandbytes' functions. Raises InputError if it cannot be imported."""
    try:
        return import_bitsandbytes().functional
    except ImportError as error:
        raise InputError(f"{KEY}: adam8bit needs bitsandbytes, which cannot be imported ({error})") from error


class Adam8bit(Partitioned):
    def __init__(self, groups: list[Group], options: Adam8bitOptions, defaults: dict[str, Any]) -> None:
        super().__init__(groups, defaults)
        self.options = options
        self.functions = functions()
        self.maps: dict[torch.device, tuple[Tensor, Tensor]] = {}  # what the codes stand for, signed and not
        self.kept: dict[str, dict[str, Tensor]] = {}  # parameter that this rank keeps -> STATES
        self.exchanges: dict[Tensor, list[Exchange]] = {}

    def begin(self, parts: dict[Tensor, list[Part]], rank: int) -> None:
        super().begin(parts, rank)
        self.exchanges = {  # all that one tensor holds pieces of is of one group
            tensor: [Exchange(some, rank) for some in rounds(held)]
            for tensor, held in parts.items()
            if held and torch.Size(held[0].shape).numel() >= self.options.from_elements
        }

    def mine(self) -> Iterator[tuple[Part, Tensor]]:
        """The parameters whose moments this rank keeps, and a tensor on their device."""
        for tensor, exchanges in self.exchanges.items():
            for exchange in exchanges:
                yield from ((part, tensor) for part in exchange.mine)

    def own_states(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for part, tensor in self.mine():
            found |= {f"{name}/{part.name}": held for name, held in self.states_of(part, tensor.device).items()}
        return found

    def states_of(self, part: Part, device: torch.device) -> dict[str, Tensor]:
        if part.name not in self.kept:
            size = torch.Size(part.shape).numel()
            codes = [torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2)]
            scales = [torch.zeros(-(-size // BLOCK), device=device) for _ in range(2)]
            self.kept[part.name] = dict(zip(STATES, [*codes, *scales], strict=True))
        return self.kept[part.name]

    def update(self, group: Group, tensor: Tensor, gradient: Tensor, state: dict[str, Any]) -> None:
        if group["moments"]:
            update = adam_update(group, gradient, state)
        else:
            update = self.update_8bit(group, tensor, gradient, int(state["step"]))
        tensor.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"])

    def update_8bit(self, group: Group, tensor: Tensor, gradient: Tensor, step: int) -> Tensor:
        if tensor.device not in self.maps:
            signed, unsigned = (self.functions.create_dynamic_map(signed=signed) for signed in (True, False))
            self.maps[tensor.device] = signed.to(tensor.device), unsigned.to(tensor.device)
        update = torch.zeros_like(tensor)
        for exchange in self.exchanges[tensor]:
            gradients = exchange.gather(gradient.reshape(-1))
            found = [torch.zeros_like(one) for one in gradients]
            for part, whole, negative in zip(exchange.mine, gradients, found, strict=True):
                first, second, scale1, scale2 = self.states_of(part, tensor.device).values()
                # a parameter of zeros, at a rate of 1 without decay, becomes the negative update
                self.functions.optimizer_update_8bit_blockwise(
                    *("adam", whole, negative, first, second, *group["betas"], 0.0, 0.0, group["eps"], step, 1.0),
                    *(*self.maps[tensor.device], scale1, scale2),
                )
            exchange.scatter(found, update.view(-1))
        return update.neg_()
