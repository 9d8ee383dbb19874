"""Where a student computes, and in which type."""

from __future__ import annotations

import os

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.recipe.settings import TrainConfig


def use_gpu() -> bool:
    """Whether a GPU is there and wanted: ``DS_ACCELERATOR=cpu`` keeps training and evaluation off it."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def training_dtype(settings: TrainConfig, device: torch.device) -> torch.dtype:
    """fp32 or bf16, as ``train.precision`` says. Raises InputError for bf16 without ZeRO, and
    for fp32 with what DeepSpeed does in bf16 only."""
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and device.type == "cuda")
    if bf16 and settings.zero == 0:
        raise InputError(
            "train.zero: 0 keeps no fp32 master weights for bf16 training; set train.zero: 1, or train.precision: fp32"
        )
    if not bf16 and settings.offload.parameters == "nvme":
        raise InputError(
            "train.offload.parameters: nvme needs train.precision: bf16 (DeepSpeed would read fp32 parameters back as "
            "bf16); set it to cpu"
        )
    return torch.bfloat16 if bf16 else torch.float32
