"""What DeepSpeed holds between two steps at every ZeRO stage, in bytes; rank 0 writes it.

memory_worker.py DIRECTORY [BUCKET]    with BUCKET, elements of a recipe's: at ZeRO 3 alone, without it and with it
"""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import tiny_step
import torch
from engine_workshop import OFFLOADED, MicroStep, packed, settings, student, take_step

from tracestill.trainer.engine.engine import Engine, leave

SHAPE = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 4, "initializer_range": 0.02}


def alive() -> int:
    """Bytes of all tensors."""
    gc.unfreeze()
    gc.collect()
    storages = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            for tensor in (thing, thing.grad if thing.is_leaf else None):
                if tensor is not None and tensor.layout is torch.strided:
                    storage = tensor.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


def main() -> None:
    found = []
    directory, *buckets = (word for word in sys.argv[1:] if not word.startswith("--"))
    # bf16's own optimizer at stage 1 is not freed with its engine: it comes last
    whole = [*(("fp32", zero, False) for zero in range(4)), ("bf16", 2, False), ("bf16", 3, False)]
    whole += [(precision, layout, False) for precision in ("fp32", "bf16") for layout in OFFLOADED]
    part = [("fp32", zero, True) for zero in (*range(4), "3-cpu-cpu")]
    every = [(*case, {}) for case in (*whole, *part, ("bf16", 1, False))]
    if buckets:
        every = [("fp32", 3, False, own) for own in ({}, {"reduce_bucket_size": int(buckets[0])})]
    for precision, zero, frozen, own in every:
        before = alive()
        built = student(None, tied=False, **SHAPE)
        if frozen:
            for module in (*built.model.model.layers[:2], built.model.get_input_embeddings()):
                module.requires_grad_(False)
        trained = sum(p.numel() for p in built.parameters() if p.requires_grad)
        parameters = sum(p.numel() for p in built.parameters())
        of = Engine(
            built,
            settings(zero=zero, clip=0.5, precision=precision),
            accumulation=2,
            raw_deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0, **own}},
        )
        take_step(of, [MicroStep(packed(tiny_step.documents(n)), 0.01) for n in range(2)])
        of.backward(of.forward(MicroStep(packed(tiny_step.documents(0)), 0.01))[0])
        held = alive() - before
        bucket = of.config["zero_optimization"]["reduce_bucket_size"]
        of.close()
        del of, built
        about = {"precision": precision, "zero": zero, "parameters": parameters, "trained": trained}
        found.append({**about, "held": held, "bucket": bucket})
    ranks = torch.distributed.get_world_size()
    if torch.distributed.get_rank() == 0:
        (Path(directory) / f"held-{ranks}.json").write_text(json.dumps(found))


main()
leave(0)
