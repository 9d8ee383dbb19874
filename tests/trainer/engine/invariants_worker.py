"""Runs every combination for one number of ranks, in one process group; rank 0 writes what came out."""

from __future__ import annotations

import json
import sys
from itertools import product
from pathlib import Path

import torch
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_grad
from engine_workshop import OFFLOADED, engine, head_is_partitioned, same_everywhere, shared_out, student, take_step
from safetensors.torch import save_file

from tracestill.trainer.engine.engine import leave

STEPS = 2


def cases(ranks: int) -> list[dict]:
    """Stage x accumulation, with tied heads, clipping and chunk size in turns; offloaded; ranks with nothing to do."""
    found = [
        {"zero": zero, "accumulation": n, "tied": (zero + i) % 2 == 1, "clip": 0.0 if n == 2 else 0.5, "idle": ""}
        for zero, (i, n) in product((0, 1, 2, 3), enumerate((1, 2, 4)))
    ]
    found += [
        {"zero": layout, "accumulation": 1 + index % 2, "tied": index > 2, "clip": 0.5, "idle": ""}
        for index, layout in enumerate(OFFLOADED)
    ]
    if ranks > 1:
        found += [
            {"zero": zero, "accumulation": n, "tied": tied, "clip": 0.5, "idle": idle}
            for zero, n, tied, idle in (
                ("1-cpu", 2, False, "empty"),
                ("3-cpu", 2, True, "weightless"),
                (0, 1, True, "empty"),
                (2, 2, False, "empty"),
                (3, 1, True, "empty"),
                (3, 2, False, "weightless"),
            )
        ]
    return found


def name_of(case: dict) -> str:
    return "zero{zero}-acc{accumulation}-{tied}-{idle}".format(**case)


def whole(parameter: torch.nn.Parameter, getter, direct: torch.Tensor | None) -> torch.Tensor:
    found = getter(parameter)
    return (direct if found is None else found).detach().cpu().clone().float().contiguous()


def run(case: dict, directory: Path, tensors: dict[str, torch.Tensor]) -> dict:
    start = directory / f"start-{'tied' if case['tied'] else 'untied'}.safetensors"
    built = student(start, tied=case["tied"], chunk_rows=5 if case["accumulation"] == 2 else 4096)
    of = engine(built, zero=case["zero"], clip=case["clip"], accumulation=case["accumulation"])
    partitioned = [head_is_partitioned(of)]
    losses, norms, skipped = [], [], []
    for step in range(STEPS):
        micro = shared_out(step, of, case["idle"])
        if step == 0:  # take_step, with a look at the reduced gradient before the update
            for one in micro:
                of.backward(of.forward(one)[0])
                partitioned.append(head_is_partitioned(of))
            for name, parameter in built.model.named_parameters():
                gradient = whole(parameter, safe_get_full_grad, parameter.grad)
                if of.rank == 0:
                    tensors[f"{name_of(case)}/gradient/{name}"] = gradient
            result = of.step(of.settings.lr)
        else:
            result = take_step(of, micro)
        partitioned.append(head_is_partitioned(of))
        assert same_everywhere(result.loss)
        assert same_everywhere(result.grad_norm)
        losses.append(result.loss)
        norms.append(result.grad_norm)
        skipped.append(result.skipped)
    for name, parameter in built.model.named_parameters():
        final = whole(parameter, safe_get_full_fp32_param, parameter)
        if of.rank == 0:
            tensors[f"{name_of(case)}/final/{name}"] = final
    of.close()
    return {**case, "losses": losses, "norms": norms, "skipped": skipped, "partitioned": partitioned}


def main() -> None:
    directory, ranks = Path(sys.argv[-2]), int(sys.argv[-1])
    tensors: dict[str, torch.Tensor] = {}
    results = {name_of(case): run(case, directory, tensors) for case in cases(ranks)}
    assert torch.distributed.get_world_size() == ranks
    if torch.distributed.get_rank() == 0:
        save_file(tensors, directory / f"ranks-{ranks}.safetensors")
        (directory / f"ranks-{ranks}.json").write_text(json.dumps(results))


main()
leave(0)
