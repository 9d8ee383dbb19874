"""What a student that learns from its own texts needs of the engine: it writes, and says how likely tokens are now."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import deepspeed
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.engine.engine import Engine, Micro
from tracestill.trainer.student.rope import isolate_rope


@contextlib.contextmanager
def writer(engine: Engine) -> Iterator[PreTrainedModel]:
    """Meanwhile a plain model of transformers' whose parameters are the engine's own: none is copied. Called on every
    rank.

    It is another tree of modules, so that neither DeepSpeed's hooks nor the packed rows' attention are in the way of
    writing token by token. At ZeRO-3 all parameters are gathered on every rank while it lasts.
    """
    student = engine.module.model
    with torch.device("meta"):
        model = type(student)(plain_config(student))
    trained = list(student.parameters())
    gathers = engine.settings.zero == 3
    with deepspeed.zero.GatheredParameters(trained) if gathers else contextlib.nullcontext():
        take_over(model, student)
        isolate_rope(model)
        yield model.requires_grad_(False).eval()


def plain_config(student: PreTrainedModel) -> Any:
    """Its config, with the attention that fits a cache."""
    config = copy.deepcopy(student.config)
    config._attn_implementation = "sdpa" if student._supports_sdpa else "eager"
    return config


def take_over(model: nn.Module, student: nn.Module) -> None:
    """Put the student's tensors in the place of the model's. Raises InputError if it has others."""
    parameters = dict(student.named_parameters(remove_duplicate=False))
    buffers = dict(student.named_buffers(remove_duplicate=False))
    for name, _ in list(model.named_parameters(remove_duplicate=False)):
        if name not in parameters:
            raise InputError(f"train.on_policy: {type(student).__name__} as it is trained has no parameter {name}")
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, nn.Parameter(parameters[name].data, requires_grad=False))
    for name, _ in list(model.named_buffers(remove_duplicate=False)):
        if name not in buffers:
            raise InputError(f"train.on_policy: {type(student).__name__} as it is trained has no buffer {name}")
        owner, _, leaf = name.rpartition(".")
        model.get_submodule(owner)._buffers[leaf] = buffers[name]


@torch.no_grad()
def token_nll(engine: Engine, micro: Micro) -> Tensor:
    """(T,) nats of the labels of a micro-step's active positions under the student as it is; 0 elsewhere. Called on
    every rank, between two steps."""
    engine.deepspeed.eval()
    found: Tensor = engine.deepspeed(micro.packed, micro.scale, None, rows=True).nll
    engine.deepspeed.train()
    return found
