"""Every ZeRO stage and accumulation for one number of ranks, with an encoder-decoder; rank 0 writes what came out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import tiny_pairs
import torch
from deepspeed.utils import safe_get_full_grad
from engine_workshop import MicroStep, engine, same_everywhere
from safetensors.torch import save_file
from tiny_step import TABLE

from tracestill.trainer.batches.rectangles import paired_row
from tracestill.trainer.engine.engine import leave

CLIP = 0.5


def micro_steps(of, accumulation: int) -> list[MicroStep]:
    """This rank's packs: of very different sizes, and for the last rank's last one none at all."""
    everything = tiny_pairs.pairs(0)
    slots = of.ranks * accumulation
    empty = slots - 1 if slots > 1 else None
    working = slots - (empty is not None)
    found = []
    for index in range(accumulation):
        slot = index * of.ranks + of.rank
        mine = [] if slot == empty else [pair for at, pair in enumerate(everything) if min(at, working - 1) == slot]
        start = of.module.model.config.decoder_start_token_id
        row = paired_row(*tiny_pairs.flat(mine), TABLE, tiny_pairs.PAD, of.device, start_id=start, groups=3)
        found.append(MicroStep(row, tiny_pairs.normaliser(0)))
    return found


def run(zero: int, accumulation: int, family: str, tensors: dict[str, torch.Tensor]) -> dict:
    of = engine(tiny_pairs.student(family, seed=3), zero=zero, clip=CLIP, accumulation=accumulation)
    head = of.module.model.get_output_embeddings().weight
    partitioned = [head.numel() == 0]
    for one in micro_steps(of, accumulation):
        of.backward(of.forward(one)[0])
        partitioned.append(head.numel() == 0)
    name = f"zero{zero}-acc{accumulation}-{family}"
    for key, parameter in of.module.model.named_parameters():
        gradient = safe_get_full_grad(parameter)
        if of.rank == 0:
            tensors[f"{name}/{key}"] = (parameter.grad if gradient is None else gradient).float().clone().contiguous()
    result = of.step(of.settings.lr)
    assert same_everywhere(result.loss)
    assert same_everywhere(result.grad_norm)
    of.close()
    return {"family": family, "zero": zero, "loss": result.loss, "norm": result.grad_norm, "partitioned": partitioned}


def main() -> None:
    directory, ranks = Path(sys.argv[-2]), int(sys.argv[-1])
    tensors: dict[str, torch.Tensor] = {}
    results = {
        f"zero{zero}-acc{accumulation}-{family}": run(zero, accumulation, family, tensors)
        for zero in (0, 1, 2, 3)
        for accumulation, family in ((1, "t5"), (3, "bart"))
    }
    assert torch.distributed.get_world_size() == ranks
    if torch.distributed.get_rank() == 0:
        save_file(tensors, directory / "gradients.safetensors")
        (directory / "results.json").write_text(json.dumps(results))


main()
leave(0)
