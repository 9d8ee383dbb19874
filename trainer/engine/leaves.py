"""Blocks of experts under ZeRO-3: fetched as a whole, whichever experts this rank's tokens go to.

Where experts are modules in a list, a rank runs some of them, and ZeRO-3, which gathers a module's parameters when it
runs, would wait for ranks that run others: for ever. DeepSpeed calls a module that it gathers with all it holds a
leaf, and knows a few by class. transformers 5 stacks experts in one parameter, which every rank gathers anyway.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def name_leaves(block: dict[str, Any], student: nn.Module) -> None:
    """Name the modules that hold a list of ``experts`` in a ``zero_optimization`` block, besides what it names."""
    lists = (nn.ModuleList, nn.ModuleDict)
    found = [name for name, m in student.named_modules() if isinstance(getattr(m, "experts", None), lists)]
    if found:
        held = dict(block.get("leaf_module", {}))
        block["leaf_module"] = {**held, "names": [*held.get("names", []), *found]}


def let_gradients_in(student: nn.Module) -> None:
    """Call once DeepSpeed has marked its leaves. It (0.19.8) reduces a leaf's gradients when that of its input is
    there; where nothing before it learns, there would be none: RuntimeError, Cannot reduce scatter gradients."""
    for module in student.modules():
        if getattr(module, "_z3_leaf", False):
            module.register_forward_pre_hook(with_gradient)


def with_gradient(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    if not args or args[0].requires_grad or not torch.is_grad_enabled():
        return None
    return args[0].detach().requires_grad_(), *args[1:]
