"""Updates of each optimizer at each stage, in one process group; rank 0 writes the parameters that came out, and
whether training that is saved and resumed goes on bit for bit.

optimizers_worker.py DIRECTORY RANKS
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any

import torch
from engine_workshop import engine, equal, fingerprint, shared_out, student, take_step
from safetensors.torch import save_file

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.engine.whole import full_state_dict

STEPS = 3
OPTIMIZERS: dict[str, Any] = {
    **{"muon": "muon", "adafactor": "adafactor", "lion": "lion"},
    **({"adam8bit": {"use": "adam8bit", "options": {"from_elements": 1000}}} if find_spec("bitsandbytes") else {}),
}
CLIP = 0.5
FROZEN = "model.layers.0.self_attn.o_proj.weight"  # else the pieces of two ranks would meet between two layers


def name_of(optimizer: str, stage: int, accumulation: int) -> str:
    return f"{optimizer}-zero{stage}-acc{accumulation}"


def updates(directory: Path, ranks: int) -> None:
    """A rank that has nothing to do is among the cases."""
    tensors: dict[str, torch.Tensor] = {}
    for optimizer, stage, accumulation in product(OPTIMIZERS, (0, 1, 2, 3), (1, 2)):
        tied = (stage + accumulation) % 2 == 1
        built = student(directory / f"start-{'tied' if tied else 'untied'}.safetensors", tied=tied)
        built.model.get_parameter(FROZEN).requires_grad_(False)
        of = engine(built, zero=stage, clip=CLIP, accumulation=accumulation, optimizer=OPTIMIZERS[optimizer])
        idle = "empty" if ranks > 1 and accumulation == 1 else ""
        for step in range(STEPS):
            take_step(of, shared_out(step, of, idle))
        state = full_state_dict(of)
        if state is not None:
            prefix = name_of(optimizer, stage, accumulation)
            tensors |= {f"{prefix}/{name}": state[name].clone() for name in dict(built.model.named_parameters())}
        of.close()
    if torch.distributed.get_rank() == 0:
        save_file(tensors, directory / f"ranks-{ranks}.safetensors")


def resumed(optimizer: str, stage: int, precision: str, directory: Path) -> dict:
    """Two steps, saved; then two more, by the same training and by another that loads what was saved. And the whole
    state once more, as the next stage holds it."""
    where = directory / f"saved-{optimizer}-{stage}-{precision}"
    first = engine(
        student(None, tied=False),
        zero=stage,
        accumulation=2,
        ema=0.7,
        optimizer=OPTIMIZERS[optimizer],
        precision=precision,
    )
    losses = [take_step(first, shared_out(step, first)).loss for step in range(2)]
    path = checkpoint.save(first, where, 2, {})
    losses += [take_step(first, shared_out(step, first)).loss for step in (2, 3)]
    after = fingerprint(first)
    first.close()
    second = engine(
        student(None, tied=False, seed=3),
        zero=stage,
        accumulation=2,
        ema=0.7,
        optimizer=OPTIMIZERS[optimizer],
        precision=precision,
    )
    take_step(second, shared_out(8, second))
    checkpoint.load(second, path)
    again = [take_step(second, shared_out(step, second)).loss for step in (2, 3)]
    same = equal(after, fingerprint(second))
    second.close()
    other = engine(
        student(None, tied=False, seed=3), zero=1 + stage % 3, accumulation=1, ema=0.7, optimizer=OPTIMIZERS[optimizer]
    )
    checkpoint.load(other, path)
    checkpoint.save(other, directory / f"again-{optimizer}-{stage}-{precision}", 2, {})
    loss = take_step(other, shared_out(2, other)).loss
    other.close()
    return {"same": same, "losses": losses[2:], "again": again, "elsewhere": loss}


def skipped(optimizer: str, stage: int) -> bool:
    """Whether a step that is left out changes nothing."""
    of = engine(student(None, tied=False), zero=stage, optimizer=OPTIMIZERS[optimizer], ema=0.7)
    take_step(of, shared_out(0, of))
    before = fingerprint(of)
    take_step(of, shared_out(1, of), weight_sum=0.0)
    untouched = equal(before, fingerprint(of))
    of.close()
    return untouched


def main() -> None:
    directory, ranks = Path(sys.argv[-2]), int(sys.argv[-1])
    updates(directory, ranks)
    if ranks == 2:
        cases = [("muon", stage, "fp32") for stage in (0, 1, 2, 3)]
        cases += [("adafactor", 1, "fp32"), ("adafactor", 3, "fp32"), ("lion", 2, "fp32")]
        cases += [("adam8bit", stage, "fp32") for stage in (0, 1, 3) if "adam8bit" in OPTIMIZERS]
        cases += [("muon", 1, "bf16"), ("adafactor", 2, "bf16")]
        found = {f"{o}-{s}-{p}": resumed(o, s, p, directory) for o, s, p in cases}
        alone = {f"{o}-{s}": skipped(o, s) for o, s in product(OPTIMIZERS, (2, 3))}
        if torch.distributed.get_rank() == 0:
            (directory / "resumed.json").write_text(json.dumps({"resumed": found, "skipped": alone}))


main()
leave(0)
