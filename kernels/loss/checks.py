"""What `linear_cross_entropy` refuses, each in one line that names the argument and what was expected."""

from __future__ import annotations

import torch
from torch import Tensor

from tracestill.kernels.loss.options import TeacherTopK


def check_call(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    weights: Tensor,
    kinds: Tensor,
    bias: Tensor | None,
    reference_nll: Tensor | None,
    teacher: TeacherTopK | None,
    num_kinds: int,
    chunk_rows: int | None,
) -> None:
    """Shapes and types, which are known without waiting for a device.  Raises ValueError."""
    if hidden.dim() != 2 or weight.dim() != 2 or hidden.shape[1] != weight.shape[1]:
        raise ValueError(f"hidden (N, H) and weight (V, H) do not fit: {tuple(hidden.shape)}, {tuple(weight.shape)}")
    rows = hidden.shape[0]
    by_row = {"targets": targets, "weights": weights, "kinds": kinds}
    if reference_nll is not None:
        by_row["reference_nll"] = reference_nll
    for name, tensor in by_row.items():
        if tensor.shape != (rows,):
            raise ValueError(f"{name} must have shape ({rows},), not {tuple(tensor.shape)}")
    for name, tensor, kind in (
        ("targets", targets, torch.int64),
        ("weights", weights, torch.float32),
        ("kinds", kinds, torch.uint8),
    ):
        if tensor.dtype != kind:
            raise ValueError(f"{name} must be {kind}, not {tensor.dtype}")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must have shape ({len(weight)},), not {tuple(bias.shape)}")
    if chunk_rows is not None and chunk_rows < 1:
        raise ValueError(f"chunk_rows must be at least 1, not {chunk_rows}")
    if teacher is None:
        return
    if teacher.ids.dim() != 2 or len(teacher.ids) != rows or teacher.ids.shape != teacher.log_probs.shape:
        shapes = f"{tuple(teacher.ids.shape)}, {tuple(teacher.log_probs.shape)}"
        raise ValueError(f"teacher.ids and teacher.log_probs must both have shape ({rows}, k), not {shapes}")
    if teacher.ids.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"teacher.ids must be torch.int32 or torch.int64, not {teacher.ids.dtype}")
    if not teacher.log_probs.is_floating_point():
        raise ValueError(f"teacher.log_probs must be of a floating type, not {teacher.log_probs.dtype}")
    if teacher.weights.shape != (rows,) or teacher.weights.dtype != torch.float32:
        found = f"{teacher.weights.dtype} {tuple(teacher.weights.shape)}"
        raise ValueError(f"teacher.weights must be torch.float32 ({rows},), not {found}")
    check_scale(teacher.scale, num_kinds, "teacher.scale")


def check_kinds(dynamic_kinds: Tensor | None, num_kinds: int) -> None:
    """Whether `dynamic_kinds` is one bool a kind."""
    if dynamic_kinds is not None and (dynamic_kinds.shape != (num_kinds,) or dynamic_kinds.dtype != torch.bool):
        found = f"{dynamic_kinds.dtype} {tuple(dynamic_kinds.shape)}"
        raise ValueError(f"dynamic_kinds must be torch.bool ({num_kinds},), not {found}")


def check_scale(scale: float | Tensor, num_kinds: int, name: str = "scale") -> None:
    """Whether `scale` is one number, or one a kind."""
    if isinstance(scale, Tensor) and scale.shape not in ((), (num_kinds,)):
        raise ValueError(f"{name} must be one number or have shape ({num_kinds},), not {tuple(scale.shape)}")


def check_ranges(
    targets: Tensor, kinds: Tensor, vocabulary: int, num_kinds: int, teacher: TeacherTopK | None = None
) -> None:
    """On a CPU only. On a GPU a weighted target out of range, or a token of a teacher's, makes the loss NaN, so that
    no step is taken."""
    if len(targets) and not 0 <= int(targets.amin()) <= int(targets.amax()) < vocabulary:
        found = f"{int(targets.amin())}..{int(targets.amax())}"
        raise ValueError(f"targets of weighted rows must lie in [0, {vocabulary}), not {found}")
    if len(kinds) and int(kinds.amax()) >= num_kinds:
        raise ValueError(f"kinds must lie below num_kinds = {num_kinds}, not {int(kinds.amax())}")
    if teacher is not None and teacher.ids.numel() and int(teacher.ids.amax()) >= vocabulary:
        raise ValueError(f"teacher.ids must lie below the {vocabulary} tokens, not {int(teacher.ids.amax())}")
