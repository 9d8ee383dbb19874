"""Three ranks in bf16: how far the reduced gradient is from the fp32 sum of what each rank's own student, which
DeepSpeed never saw, says in bf16. Rank 0 writes it by stage and accumulation."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from engine_workshop import engine, shared_out, student

from tracestill.trainer.engine.engine import leave


def distance(stage: int, accumulation: int) -> float:
    """The largest |reduced - sum| over all parameters, as a share of the largest gradient."""
    of = engine(student(None, tied=True), zero=stage, accumulation=accumulation, precision="bf16")
    micro = shared_out(0, of)
    plain = student(None, tied=True).cast(torch.bfloat16)
    total = {name: torch.zeros(p.shape) for name, p in plain.named_parameters()}
    for one in micro:
        of.backward(of.forward(one)[0])
        plain.zero_grad()
        plain(one.packed, one.scale)[0].backward()
        for name, parameter in plain.named_parameters():
            total[name] += parameter.grad.float()
    worst = largest = 0.0
    for name, parameter in of.module.named_parameters():
        dist.all_reduce(total[name])
        reduced = safe_get_full_grad(parameter).float()
        worst = max(worst, float((reduced - total[name]).abs().max()))
        largest = max(largest, float(total[name].abs().max()))
    of.close()
    return worst / largest


if __name__ == "__main__":
    found = {f"{stage}-{accumulation}": distance(stage, accumulation) for stage in (1, 2) for accumulation in (1, 2)}
    if dist.get_rank() == 0:
        Path(sys.argv[-1]).write_text(json.dumps(found))
    leave(0)
