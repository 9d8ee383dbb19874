"""``train.zero: auto``: the ranks agree on a stage, by the student that they have and the least memory of any."""

from __future__ import annotations

import psutil
import torch
import torch.distributed as dist
from torch import nn

from tracestill.trainer.engine.zero_stage import choose_stage
from tracestill.trainer.loading.four_bits import is_quantised
from tracestill.trainer.ranks.placement import find_placement
from tracestill.trainer.recipe.optimizers import optimizer_bytes
from tracestill.trainer.recipe.settings import TrainConfig, own_bucket
from tracestill.trainer.student.check import elements_of


def resolve_stage(
    student: nn.Module, settings: TrainConfig, device: torch.device, dtype: torch.dtype
) -> tuple[TrainConfig, str]:
    """The settings with the stage that ``train.zero: auto`` stands for, and why, in words. Called on every rank."""
    if settings.zero != "auto":
        return settings, ""
    if device.type == "cuda":
        room = float(torch.cuda.get_device_properties(device).total_memory)
    else:
        room = psutil.virtual_memory().total / max(map(len, find_placement().ranks))
    if settings.on_policy is not None:
        room -= dtype.itemsize * elements_of(settings.on_policy.teacher, dist.get_world_size())
    least = torch.tensor(room, dtype=torch.float64, device=device)
    dist.all_reduce(least, op=dist.ReduceOp.MIN)
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    matrices = sum(p.numel() for p in student.parameters() if p.requires_grad and p.ndim >= 2)
    stage, reason = choose_stage(
        float(least),
        parameters=sum(p.numel() for p in student.parameters()),
        trained=trained,
        ranks=dist.get_world_size(),
        number=dtype.itemsize,
        optimizer=optimizer_bytes(settings.optimizer.use, matrices, trained - matrices) / max(trained, 1),
        bucket=own_bucket(trained, 0),
        whole=any(
            getattr(module, "_compiled_call_impl", None) is not None or is_quantised(module)
            for module in student.modules()
        ),
    )
    return settings.model_copy(update={"zero": stage}), f" (auto: {reason})"
