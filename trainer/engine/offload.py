"""What DeepSpeed's offloading leaves to be done (``train.offload``).

With offloading DeepSpeed 0.19 copies each parameter's reduced gradient to the host when the last micro-step brings it.
What it leaves:

- the host's gradients of a parameter that a step does not touch are those of an earlier step, clipped;
- a gradient that came before the last micro-step only never gets there;
- at stage 1 with accumulation the sum of the step before is added again;
- a step that is left out here, and not there, does not reset its count of micro-steps.

``begin``, ``complete`` and ``forget`` mend these, and the tests of the invariants fail without.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

FIRST = -1  # DeepSpeed's count of micro-steps before a step, at stages 1 and 2


def offloaded(engine: Any) -> bool:
    """Whether DeepSpeed's engine keeps optimizer states outside of the device."""
    return bool(getattr(engine.optimizer, "cpu_offload", False) or getattr(engine.optimizer, "offload_optimizer", False))


def begin(optimizer: Any, masters: Iterable[Tensor]) -> None:
    """Before a step's first micro-step: no gradient of an earlier step is left on the host."""
    for master in masters:
        if master.grad is not None:
            master.grad.zero_()
    for kept in getattr(optimizer, "accumulated_grads_in_cpu", {}).values():
        kept.zero_()


def complete(optimizer: Any) -> None:
    """After a step's last micro-step: all gradients are on the host, also those that only came before it."""
    came = getattr(optimizer, "_offload_accumulated_param_ids", None)  # stages 1 and 2
    if came is None:
        came = optimizer._offload_boundary_param_ids
    if len(came) > len(optimizer.norm_for_param_grads):
        optimizer.finalize_gradient_accumulation_boundary()


def norms(optimizer: Any) -> list[Tensor]:
    """The norm of each parameter's gradient, this rank's part, as DeepSpeed noted it on its way to the host."""
    return list(optimizer.norm_for_param_grads.values())


def forget(optimizer: Any) -> None:
    """The step's gradients so far count for nothing."""
    optimizer.reset_cpu_buffers()
    if hasattr(optimizer, "_offload_accumulated_param_ids"):
        optimizer.micro_step_id = FIRST
        optimizer._offload_accumulated_param_ids.clear()
    else:
        optimizer._offload_boundary_param_ids.clear()
