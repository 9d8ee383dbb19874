"""Two ranks learn from a label and a teacher's channel; rank 0 writes losses and reduced gradients.

teacher_worker.py DIRECTORY    that holds the channels and start.safetensors
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import teacher_cases
import torch
from deepspeed.utils import safe_get_full_grad
from engine_workshop import PARTITIONED, head_is_partitioned, settings, student
from safetensors.torch import save_file

from tracestill.trainer.engine.engine import Engine, leave

CASES: dict[str, dict[str, Any]] = {
    "zero 0": {"zero": 0},
    "zero 1": {"zero": 1, "distil": {"divergence": "reverse"}},
    "zero 2": {"zero": 2, "distil": {"mix": 1.0}},
    "zero 3": {"zero": 3, "distil": {"divergence": "jsd"}, "chunk_rows": 5},
    "shared rows": {"zero": 3, "parts": 2, "distil": {"divergence": "jsd", "normaliser": "tokens"}},
}


def run(name: str, case: dict[str, Any], directory: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    built = student(directory / "start.safetensors", tied=False, chunk_rows=case.get("chunk_rows", 4096))
    parts = case.get("parts", 1)
    wanted = settings(zero=case["zero"], clip=0.0).model_copy(update={"sequence_parallel": parts})
    packs = teacher_cases.PLAN.packs_per_step
    ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 2
    accumulation = packs * parts // ranks
    of = Engine(built, wanted, accumulation=accumulation, raw_deepspeed={"zero_optimization": PARTITIONED}, seed=0)
    mesh = of.mesh
    place = {"rank": mesh.data_rank, "ranks": mesh.data_ranks, "group": mesh.data_group}
    step = teacher_cases.batches(
        directory, teacher_cases.config(**case.get("distil", {})), part=mesh.part, parts=mesh.parts, **place
    ).step(0)
    statistics = torch.zeros((), dtype=torch.float64)
    for one in step.micro:
        loss, found = of.forward(one)
        of.backward(loss)
        statistics = statistics + found.double()
    partitioned = head_is_partitioned(of)
    for key, parameter in built.model.named_parameters():
        gradient = safe_get_full_grad(parameter)
        gradient = parameter.grad if gradient is None else gradient
        if of.rank == 0:
            tensors[f"{name}/{key}"] = gradient.detach().clone().float().contiguous()
    torch.distributed.all_reduce(statistics)
    result = of.step(1e-3, weight_sum=step.weight_sum)
    of.close()
    return {
        "loss": result.loss, "skipped": result.skipped, "documents": step.documents.tolist(),
        "partitioned": partitioned, "statistics": statistics.tolist(),
    }  # fmt: skip


def main() -> None:
    directory = Path(sys.argv[-1])
    tensors: dict[str, torch.Tensor] = {}
    results = {name: run(name, case, directory, tensors) for name, case in CASES.items()}
    if torch.distributed.get_rank() == 0:
        save_file(tensors, directory / "found.safetensors")
        (directory / "found.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main()
    leave(0)
