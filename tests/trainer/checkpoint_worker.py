"""Saves, resumes and loads on as many ranks as it is started with; rank 0 writes what it found.

checkpoint_worker.py save DIRECTORY    (2 ranks) a checkpoint of each stage, and whether resuming is exact
checkpoint_worker.py load DIRECTORY    those checkpoints into another stage, saved again; and the step after
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state
from engine_workshop import engine, equal, fingerprint, shared_out, student, take_step
from safetensors.torch import save_file

from tracestill.trainer import checkpoint, zero
from tracestill.trainer.engine import Engine, leave

SAVED_AT, STEPS = 3, 6


def make(stage: int, seed: int, *, frozen: bool, dropout: float, accumulation: int = 2) -> Engine:
    built = student(None, tied=stage == 2, seed=seed, attention_dropout=dropout)
    if frozen:
        built.model.get_input_embeddings().weight.requires_grad_(False)
    return engine(built, zero=stage, accumulation=accumulation, seed=seed)


def frozen_at(stage: int) -> bool:
    return stage in (1, 3)


def train(of: Engine, first: int, last: int) -> list[float]:
    return [take_step(of, shared_out(step, of)).loss for step in range(first, last)]


def by_deepspeed(of: Engine) -> dict[str, torch.Tensor]:
    """The whole state by DeepSpeed's own accessors, as an independent view (stages 1 to 3)."""
    if hasattr(of.deepspeed.optimizer, "_hp_optimizer_states_linked"):
        # 0.19.8 links the moments of all groups after updating the first, and misses those of the second
        of.deepspeed.optimizer._hp_optimizer_states_linked = False
        of.deepspeed.optimizer._lazy_init_hp_params_optimizer_state()
    found = {}
    for name, parameter in of.module.named_parameters():
        if parameter.requires_grad:
            found[f"parameter/{name}"] = safe_get_full_fp32_param(parameter).clone()
            for moment in zero.MOMENTS:
                found[f"{moment}/{name}"] = safe_get_full_optimizer_state(parameter, moment).clone()
    return found


def save_and_resume(stage: int, directory: Path) -> dict[str, Any]:
    whole = make(stage, 0, frozen=frozen_at(stage), dropout=0.2)
    losses = train(whole, 0, STEPS)
    uninterrupted, random = fingerprint(whole), torch.get_rng_state()
    whole.close()

    first = make(stage, 0, frozen=frozen_at(stage), dropout=0.2)
    train(first, 0, SAVED_AT)
    path = checkpoint.save(first, directory / f"zero{stage}", SAVED_AT, {"note": [stage, "a"]})
    seen = by_deepspeed(first) if stage else {}
    if seen and first.rank == 0:
        save_file(seen, directory / f"zero{stage}.safetensors")
    first.close()

    second = make(stage, 7, frozen=frozen_at(stage), dropout=0.2)  # other parameters, other RNG
    take_step(second, shared_out(9, second))
    assert checkpoint.latest(directory / f"zero{stage}") == path
    state = checkpoint.load(second, path)
    again = train(second, SAVED_AT, STEPS)
    same = equal([*uninterrupted, random], [*fingerprint(second), torch.get_rng_state()])
    second.close()
    return {"state": state, "same": same, "losses": losses[SAVED_AT:], "again": again, "path": path.name}


def load_elsewhere(stage: int, directory: Path) -> dict[str, Any]:
    """A checkpoint of ``stage`` into the next stage, on these ranks; saved again, and one step further."""
    path = checkpoint.latest(directory / f"zero{stage}")
    assert path is not None
    built = student(None, tied=stage == 2, seed=11)
    if frozen_at(stage):
        built.model.get_input_embeddings().weight.requires_grad_(False)
    of = engine(built, zero=(stage + 1) % 4, accumulation=1)
    checkpoint.load(of, path)
    checkpoint.save(of, directory / f"again-{of.ranks}" / f"zero{stage}", SAVED_AT, {})
    names = checkpoint.full_state_dict(of)
    result = take_step(of, shared_out(SAVED_AT, of))
    of.close()
    return {"loss": result.loss, "norm": result.grad_norm, "names": sorted(names) if names else []}


def main() -> None:
    mode, directory = sys.argv[-2], Path(sys.argv[-1])
    results: dict[str, Any] = {}
    if mode == "save":
        results["resume"] = {stage: save_and_resume(stage, directory) for stage in (0, 1, 2, 3)}
    results["load"] = {stage: load_elsewhere(stage, directory) for stage in (0, 1, 2, 3)}
    if dist.get_rank() == 0:
        (directory / f"ranks-{dist.get_world_size()}.json").write_text(json.dumps(results))


main()
leave(0)
