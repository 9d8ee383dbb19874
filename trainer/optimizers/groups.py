"""Which parameters an optimizer treats alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from tracestill.trainer.student.student import SpanWeightedHead

Group = dict[str, Any]
MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


def parameter_groups(
    student: nn.Module,
    weight_decay: float,
    split: Callable[[nn.Parameter, bool], Group] = lambda parameter, inner: {"moments": MOMENTS},
) -> list[Group]:
    """Parameters that learn, in groups: no decay for norms, biases and embeddings (also where the head is tied to
    them). ``split`` gives, for a parameter and whether it is a matrix inside of a layer, what else its group has; those
    for which it differs are apart. ``moments`` are the names of what the optimizer keeps for each element."""
    embeddings = own_parameters(student, nn.Embedding)
    head = own_parameters(student, SpanWeightedHead)
    groups: list[Group] = []
    for decays in (True, False):
        for parameter in student.parameters():
            decayed = parameter.ndim >= 2 and id(parameter) not in embeddings
            if not parameter.requires_grad or decayed is not decays:
                continue
            about = {
                "weight_decay": weight_decay if decays else 0.0,
                **split(parameter, decayed and id(parameter) not in head),
            }
            found = next((g for g in groups if {k: v for k, v in g.items() if k != "params"} == about), None)
            if found is None:
                groups.append(found := {"params": [], **about})
            found["params"].append(parameter)
    return groups


def own_parameters(student: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Ids of the parameters of all modules of a kind."""
    return {id(p) for m in student.modules() if isinstance(m, kind) for p in m.parameters(recurse=False)}
