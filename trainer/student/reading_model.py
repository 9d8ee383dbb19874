"""Multipliers that read the model: a weighting's ``dynamic`` and ``observe``, put into a student's head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.weighting import Weighting


class Reference:
    """A frozen model beside the student, the same on every rank, that says how likely it finds every target."""

    def __init__(self, student: Student, device: torch.device, dtype: torch.dtype) -> None:
        self.student = student.cast(dtype).to(device).eval().requires_grad_(False)

    def nll(self, packed: PackedBatch, exchange: Callable[..., Any] | None = None) -> Tensor:
        """(T,) nats of each weighted position's label; 0 elsewhere. ``exchange``: the student's own."""
        self.student.exchange = exchange
        return self.student.token_losses(packed).nll


def use_weighting(
    student: Student,
    weighting: Weighting,
    *,
    vocabulary: dict[str, Any],
    multiplied: np.ndarray | None = None,
    device: torch.device,
    dtype: torch.dtype,
    attention: str = "auto",
    chunk_rows: int | None = None,
    trusted: str | None = None,
) -> None:
    """Let the student's loss ask the weighting, if it reads the model; else nothing.

    ``vocabulary`` holds vocab_size, bos_id, eos_id, pad_id and num_kinds, as for ``build_student``; ``multiplied``,
    (num_kinds,) bool, says which kinds it multiplies (see ``weighting.multiplied_kinds``; None: all); ``trusted`` is
    the digest of a reference model's own code that may run. Raises InputError if the weighting names a reference model
    that does not load or does not share the tokenizer's vocabulary.
    """
    if weighting.dynamic is None:
        return
    head = student.head[0]
    head.options["dynamic"] = weighting.dynamic
    head.options["dynamic_kinds"] = None if multiplied is None else torch.from_numpy(multiplied).to(device)
    head.observe, weighting.device = weighting.observe, device
    path = weighting.reference
    if path is None:
        return
    config = StudentConfig(pretrained=Path(path), attention=attention, trust_remote_code=trusted)
    try:
        built = build_student(config, **vocabulary, device=device, dtype=dtype, chunk_rows=chunk_rows)
    except InputError as error:
        raise InputError(f"weighting.options.reference: {error}") from error
    if built.model.config.is_encoder_decoder != student.model.config.is_encoder_decoder:
        raise InputError(f"weighting.options.reference: {path} reads documents of another layout than the student does")
    student.reference_nll = Reference(built, device, dtype).nll
