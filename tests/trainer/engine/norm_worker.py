"""Alone: DeepSpeed's own norms raise, and clipping acts all the same; in fp32 and bf16, at each stage."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from deepspeed.runtime import bf16_optimizer
from deepspeed.runtime import engine as deepspeed_engine
from deepspeed.runtime.zero.stage3 import DeepSpeedZeroOptimizer_Stage3
from deepspeed.runtime.zero.stage_1_and_2 import DeepSpeedZeroOptimizer
from engine_workshop import engine, shared_out, student, take_step

from tracestill.trainer.engine import zero
from tracestill.trainer.engine.engine import leave

CLIP = 0.25


def raising(*arguments: object, **more: object) -> None:
    raise AssertionError("the norm is computed again")


def main() -> None:
    for kind in (DeepSpeedZeroOptimizer, DeepSpeedZeroOptimizer_Stage3):
        kind.get_grad_norm_direct = raising
    DeepSpeedZeroOptimizer.has_overflow = raising
    deepspeed_engine.clip_grad_norm_ = raising
    plain = bf16_optimizer.get_global_norm_of_tensors

    def of_one(input_tensors: list, **more: object) -> object:
        assert sum(tensor.numel() for tensor in input_tensors) == 1, "the norm is computed again"
        return plain(input_tensors, **more)

    bf16_optimizer.get_global_norm_of_tensors = of_one
    found = {}
    for stage, precision in ((0, "fp32"), (1, "fp32"), (2, "fp32"), (3, "fp32"), (1, "bf16"), (2, "bf16"), (3, "bf16")):
        of = engine(student(None, tied=False), zero=stage, clip=CLIP, precision=precision)
        norm = take_step(of, shared_out(0, of)).grad_norm
        moments = [piece.moment(of.optimizer, "exp_avg") for piece in zero.pieces(of.deepspeed)]
        first = float(torch.cat(moments).norm()) / (1 - of.settings.betas[0])  # of the gradient that AdamW saw
        found[f"{stage}-{precision}"] = [norm, first]
        of.close()
    Path(sys.argv[-1]).write_text(json.dumps(found))


main()
leave(0)
