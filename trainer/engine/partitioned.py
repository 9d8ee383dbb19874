"""A model that is only read, its parameters shared out among all ranks: ZeRO-3 without an optimizer.

Each layer is gathered from all ranks when it computes, so a pass is one of all ranks, whatever each of them reads in
it. Ranks have different numbers of packs; one that is done goes through the model with the others until all are.
"""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import deepspeed
import torch
from torch import nn

from tracestill.kernels.loss import TokenScores
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.engine import leaves
from tracestill.trainer.student.student import Student

OF_PARAMETERS = "stage3_"  # how keys of DeepSpeed's block zero_optimization begin that are about them


class Place(Protocol):
    """Where a rank computes, and in what: ``engine.World``, or an ``Engine``."""

    @property
    def device(self) -> torch.device: ...
    @property
    def dtype(self) -> torch.dtype: ...


class Reading(nn.Module):
    """A student whose forward says what it thinks of a row's tokens: DeepSpeed gathers by its modules' forward."""

    def __init__(self, student: Student) -> None:
        super().__init__()
        self.student = student

    def forward(self, row: PackedBatch, **wanted: Any) -> TokenScores:
        return self.student.token_scores(row, **wanted)


class Partitioned:
    """A student on the CPU of every rank becomes one whose parameters lie on ``world.device``, a part on each rank."""

    def __init__(self, student: Student, world: Place, raw_deepspeed: Mapping[str, Any] | None = None) -> None:
        """``raw_deepspeed``: the recipe's block, of which the keys about ZeRO-3's parameters hold here too. Called on
        every rank; each has one whole parameter on its device at a time."""
        module = Reading(student)
        self.meet: Callable[..., bool]  # of all ranks, to be set before any reads: ``leaving.Meetings.meet``
        block = (raw_deepspeed or {}).get("zero_optimization", {})
        zero = {"stage": 3, **{key: value for key, value in block.items() if key.startswith(OF_PARAMETERS)}}
        leaves.name_leaves(zero, module)
        config: dict[str, Any] = {"train_micro_batch_size_per_gpu": 1, "zero_optimization": zero}
        if world.dtype == torch.bfloat16:
            config["bf16"] = {"enabled": True}
        for buffer in module.buffers():
            buffer.data = buffer.data.to(world.device)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints memory figures; its warnings are logged
            # before the engine, which would put the whole model on the device first
            deepspeed.zero.Init(module=module, config_dict_or_path=copy.deepcopy(config), dtype=world.dtype)
            self.deepspeed, *_ = deepspeed.initialize(model=module, config=config)
        self.deepspeed.eval()

    def read(self, row: PackedBatch, **wanted: Any) -> TokenScores:
        """As ``Student.token_scores``, while every other rank reads, or goes ``along`` with those that do."""
        self.meet(works=True)
        return self.deepspeed(row, **wanted)

    def along(self, row: PackedBatch) -> None:
        """A pass that only others need, once ``meet`` has said that there is one."""
        self.deepspeed(row)
