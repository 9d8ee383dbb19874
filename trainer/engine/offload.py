"""What DeepSpeed's offloading leaves to be done (``train.offload``).

With offloading DeepSpeed 0.19 copies each parameter's reduced gradient to the host when the last micro-step brings it.
What it leaves:

- the host's gradients of a parameter that a step does not touch are those of an earlier step, clipped;
- a gradient that came before the last micro-step only never gets there;
- one whose first gradient of a step comes after the first micro-step gets the sum of an earlier step added (stage 2);
- a step that is left out here, and not there, leaves its norms and its count of micro-steps.

``begin``, ``complete`` and ``forget`` mend these, and tests/trainer/engine/test_engine.py fails without.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from tracestill.data_pipeline.base.errors import InputError

LIVE = 1_000_000_000  # DeepSpeed's stage3_max_live_parameters, elements
FIRST = -1  # DeepSpeed's count of micro-steps before a step, at stages 1 and 2


def offloaded(engine: Any) -> bool:
    """Whether DeepSpeed's engine keeps optimizer states outside of the device."""
    return bool(
        getattr(engine.optimizer, "cpu_offload", False) or getattr(engine.optimizer, "offload_optimizer", False)
    )


def begin(optimizer: Any, masters: Iterable[Tensor]) -> None:
    """Before a step's first micro-step: no gradient of an earlier step is left on the host."""
    for master in masters:
        if master.grad is not None:
            master.grad.zero_()
    for kept in getattr(optimizer, "accumulated_grads_in_cpu", {}).values():
        kept.zero_()


def complete(optimizer: Any) -> None:
    """After a step's last micro-step: all gradients are on the host, also those that only came before it; and in files
    also the zeros of those that did not come."""
    if hasattr(optimizer, "_offload_accumulated_param_ids"):  # stages 1 and 2
        came = optimizer._offload_accumulated_param_ids
    else:
        came = optimizer._offload_boundary_param_ids
        if is_swapped(optimizer):
            came |= {p.ds_id for group in optimizer.fp16_groups for p in group if is_held(optimizer, p)}
    if len(came) > len(optimizer.norm_for_param_grads):
        optimizer.finalize_gradient_accumulation_boundary()


def is_held(optimizer: Any, parameter: Any) -> bool:
    """Whether this rank's partition of a parameter is more than padding."""
    return bool(parameter.partition_numel() * optimizer._get_param_partition_rank(parameter) < parameter.ds_numel)


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


@contextmanager
def window(optimizer: Any) -> Iterator[Callable[[int], None]]:
    """Gives a function that brings a sub-group of stage 3 from its files, if it has some, into memory until the next is
    brought; what was written into it meanwhile goes to the files."""
    held: list[int] = []

    def bring(group: int) -> None:
        if held != [group] and is_swapped(optimizer) and optimizer._swappable_optimizer_subgroup(group):
            put_back()
            optimizer._optimizer_states_and_gradient_swap_in(group)
            held.append(group)

    def put_back() -> None:
        while held:
            optimizer._optimizer_states_and_gradient_swap_out(held.pop())

    try:
        yield bring
    finally:
        put_back()


def is_swapped(optimizer: Any) -> bool:
    """Whether DeepSpeed keeps masters and moments in files; those of small sub-groups stay in memory."""
    return bool(getattr(optimizer, "swap_optimizer", False))


def forget_states(optimizer: Any) -> None:
    """The moments in files count for nothing."""
    if is_swapped(optimizer):
        optimizer.optimizer_swapper.purge_state()


def need_files(possible: bool) -> None:
    """Raises InputError unless it is ``possible`` for DeepSpeed to read and write files here."""
    if not possible:
        raise InputError(
            "train.offload: nvme needs libaio with its headers (libaio-dev, libaio-devel) and a C++ compiler, of which "
            "DeepSpeed builds its async_io; set CFLAGS and LDFLAGS if they lie elsewhere, or offload to cpu"
        )


def size_buffers(block: dict[str, Any], student: nn.Module, ranks: int) -> None:
    """Give parameters in files as many buffers as may be gathered at a time, unless ``block``, DeepSpeed's
    ``zero_optimization``, says how many; its own 5 are too few for a small student, and end the first pass."""
    kept = block.get("offload_param", {})
    if kept.get("device") == "nvme":
        sizes = np.sort([p.numel() for p in student.parameters()])
        live = np.cumsum(sizes) <= block.get("stage3_max_live_parameters", LIVE)
        kept.setdefault("buffer_size", -(-int(sizes[-1]) // ranks))
        kept.setdefault("buffer_count", max(5, int(live.sum()) + 2))


def place(directory: str, training: Path) -> Path:
    """Where a training's files lie in the recipe's ``directory``, apart from another's."""
    return Path(directory) / f"tracestill-{hashlib.sha256(str(training.absolute()).encode()).hexdigest()[:12]}"


def clear(block: dict[str, Any], rank: int) -> None:
    """Delete a rank's files; ``block`` is DeepSpeed's ``zero_optimization``."""
    for key in ("offload_optimizer", "offload_param"):
        if path := block.get(key, {}).get("nvme_path"):
            for folder in Path(path).glob(f"zero_stage_3/*/rank{rank}"):
                shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # the last one takes the folders
                for folder in [*Path(path).glob("zero_stage_3/*"), Path(path, "zero_stage_3"), Path(path)]:
                    folder.rmdir()
