"""Blocks of experts under ZeRO-3: fetched as a whole, whichever experts this rank's tokens go to.

Where experts are modules in a list, a rank runs some of them, and ZeRO-3, which gathers a module's parameters when it
runs, would wait for ranks that run others: for ever. DeepSpeed calls a module that it gathers with all it holds a
leaf. transformers 5 stacks experts in one parameter, which every rank gathers anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from deepspeed.runtime.zero.leaf_module_config import DEFAULT_LEAF_MODULE_CLASSES
from deepspeed.utils import set_z3_leaf_module
from torch import nn


def mark_leaves(student: nn.Module) -> None:
    """Make leaves of the blocks that hold a list of ``experts``, and of those that DeepSpeed knows by class."""
    for module in student.modules():
        listed = isinstance(getattr(module, "experts", None), nn.ModuleList | nn.ModuleDict)
        if listed or f"{type(module).__module__}.{type(module).__qualname__}" in DEFAULT_LEAF_MODULE_CLASSES:
            set_z3_leaf_module(module, True)
            module.register_forward_pre_hook(with_gradient)


def with_gradient(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    """DeepSpeed (0.19.8) reduces a leaf's gradients when that of its input is there; where nothing before it learns,
    there would be none, and it fails: RuntimeError, Cannot reduce scatter gradients."""
    hidden = args[0]
    if torch.is_grad_enabled() and not hidden.requires_grad:
        return hidden.detach().requires_grad_(), *args[1:]
    return None
