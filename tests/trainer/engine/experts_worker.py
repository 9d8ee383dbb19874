"""Mixtures of experts with their routers' loss, on as many ranks as it is started with; rank 0 writes what came out."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import tiny_experts
import tiny_step
import torch
import torch.distributed as dist
from deepspeed.utils import safe_get_full_grad
from engine_workshop import MicroStep, engine, equal, fingerprint, packed, student, take_step
from safetensors.torch import save_file

from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import Engine, leave
from tracestill.trainer.student.adapt import freeze
from tracestill.trainer.student.routers import Routers

FROZEN = ["embeddings", "model.layers.0.self_attn*", "model.layers.0.*norm*"]  # so that nothing before a block learns
CASES: list[dict[str, Any]] = [
    {"kind": "mixtral", "zero": 0, "accumulation": 2},
    {"kind": "qwen3_moe", "zero": 1, "accumulation": 1},
    {"kind": "qwen2_moe", "zero": 2, "accumulation": 2, "idle": True},
    {"kind": "mixtral", "zero": 3, "accumulation": 2, "idle": True},
    {"kind": "qwen2_moe", "zero": 3, "accumulation": 1},
    {"kind": "mixtral", "zero": 3, "accumulation": 1, "listed": True, "short": True},
    {"kind": "mixtral", "zero": 3, "accumulation": 1, "frozen": True},
    {"kind": "mixtral", "zero": 3, "accumulation": 1, "listed": True, "frozen": True, "short": True},
]


def name_of(case: dict[str, Any]) -> str:
    return "-".join(key if value is True else str(value) for key, value in case.items())


def documents(case: dict[str, Any]) -> list[tiny_step.Document]:
    """With ``short``, one of few tokens for each rank of two, so that no rank visits all experts."""
    every = tiny_step.documents(0)
    return sorted(every, key=lambda d: len(d.tokens))[:2] if case.get("short") else every


def make(case: dict[str, Any], *, trained: bool = True) -> Engine:
    kind = case["kind"]
    built = student(None, tied=False, model_type=kind, **tiny_experts.SHAPES[kind])
    if trained:
        built.model.load_state_dict(tiny_experts.plain(kind).state_dict())
    if case.get("listed"):
        tiny_experts.list_experts(built.model)
    if case.get("frozen"):
        freeze(built.model, FROZEN)
    built.routers = Routers(tiny_experts.COEFFICIENT, tiny_experts.SHAPES[kind]["num_experts_per_tok"])
    return engine(built, zero=case["zero"], accumulation=case["accumulation"])


def share(case: dict[str, Any], of: Engine) -> list[MicroStep]:
    """This rank's micro-steps; with ``idle`` the last rank gets padding alone."""
    working = of.ranks - 1 if case.get("idle") and of.ranks > 1 else of.ranks
    found = []
    for index in range(of.accumulation):
        mine = documents(case)[index * working + of.rank :: working * of.accumulation] if of.rank < working else []
        found.append(MicroStep(packed(mine), tiny_step.normaliser(0)))
    return found


def run(case: dict[str, Any], tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    of = make(case)
    missed: list[int] = []
    gates = [m for name, m in of.module.named_modules() if name.endswith("mlp.gate")]
    for gate in gates:
        gate.register_forward_hook(lambda m, _, out: missed.append(m.num_experts - len(out[2].unique())))
    for micro in share(case, of):
        of.backward(of.forward(micro)[0])
    for name, parameter in of.module.model.named_parameters():
        if parameter.requires_grad:
            gradient = safe_get_full_grad(parameter)
            gradient = parameter.grad if gradient is None else gradient
            tensors[f"{name_of(case)}/{name}"] = gradient.clone().float().contiguous()
    result = of.step(of.settings.lr)
    of.module.routers.end_step(faulty=result.faulty)
    told = of.module.routers.read()
    every: list[Any] = [None] * of.ranks
    dist.all_gather_object(every, missed)
    of.close()
    return {**case, "loss": result.loss, "norm": result.grad_norm, "missed": every, "told": told}


def resumes(case: dict[str, Any], directory: Path) -> bool:
    """Whether a student of other weights that goes on from a checkpoint becomes the uninterrupted one, bit for bit."""
    first = make(case)
    take_step(first, share(case, first))
    path = checkpoint.save(first, directory / f"saved-{first.ranks}", 1, {})
    take_step(first, share(case, first))
    uninterrupted = fingerprint(first)
    first.close()
    second = make(case, trained=False)
    checkpoint.load(second, path)
    take_step(second, share(case, second))
    same = equal(uninterrupted, fingerprint(second))
    second.close()
    return same


def main() -> None:
    directory = Path(sys.argv[-1])
    tensors: dict[str, torch.Tensor] = {}
    ranks = int(os.environ["WORLD_SIZE"])
    results = {name_of(case): run(case, tensors) for case in (CASES if ranks == 2 else CASES[3:6:2])}
    same = resumes(CASES[4], directory) if ranks == 2 else None
    if dist.get_rank() == 0:
        save_file(tensors, directory / f"ranks-{ranks}.safetensors")
        (directory / f"ranks-{ranks}.json").write_text(json.dumps({"results": results, "same": same}))


main()
leave(0)
