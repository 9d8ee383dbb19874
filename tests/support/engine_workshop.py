"""What the engine's workers share: students from a file, packs from documents, settings of a case."""

from __future__ import annotations

import atexit
import gc
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tiny_step
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor

from tracestill.kernels.pack import PackedBatch, pack
from tracestill.trainer.engine import zero as zero_layout
from tracestill.trainer.engine.engine import Engine
from tracestill.trainer.recipe.settings import StudentConfig, TrainConfig
from tracestill.trainer.student.student import Student, build_student

gc.freeze()  # stage 3 collects garbage at every start; all the imported modules need no looking through
atexit.register(gc.unfreeze)

PARTITIONED = {  # without these DeepSpeed never partitions a student as small as this one
    "stage3_param_persistence_threshold": 0,
    "reduce_bucket_size": 1800,  # a tenth of it; an embedding is larger
    "stage3_prefetch_bucket_size": 2000,
}
OFFLOADED = ("1-cpu", "2-cpu", "3-cpu", "3-cpu-cpu", "3-none-cpu")  # stage, train.offload's optimizer, parameters


@dataclass(frozen=True)
class MicroStep:
    packed: PackedBatch
    scale: float
    teacher: Any = None


def student(
    start: Path | None,
    *,
    tied: bool,
    chunk_rows: int = 4096,
    seed: int = 0,
    loss: dict[str, float] | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    **more: Any,
) -> Student:
    config = StudentConfig(config={**tiny_step.SHAPE, "tie_word_embeddings": tied, **more})
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    built = build_student(
        config,
        vocab_size=tiny_step.VOCABULARY,
        num_kinds=tiny_step.NUM_KINDS,
        seed=seed,
        chunk_rows=chunk_rows,
        device=device,
        dtype=dtype,
        **(loss or {}),
        **ids,
    )
    if start is not None:
        missing, unexpected = built.model.load_state_dict(load_file(start), strict=False)
        assert not unexpected, unexpected
        assert set(missing) <= {"lm_head.weight"}, missing
    return built


def settings(
    *, zero: int | str, clip: float, precision: str = "fp32", ema: float | None = None, optimizer: Any = "adamw"
) -> TrainConfig:
    """``zero`` is a stage, or one of OFFLOADED."""
    stage, states, parameters, *_ = *str(zero).split("-"), "none", "none"
    return TrainConfig(
        steps=10,
        optimizer=optimizer,
        ema=ema,
        offload={"optimizer": states, "parameters": parameters},  # type: ignore[arg-type]
        zero=int(stage),  # type: ignore[arg-type]
        clip=clip,
        precision=precision,  # type: ignore[arg-type]
        weight_decay=tiny_step.WEIGHT_DECAY,
        **tiny_step.ADAM,
    )


def engine(
    built: Student,
    *,
    zero: int | str,
    clip: float = 0.5,
    accumulation: int = 1,
    seed: int = 0,
    precision: str = "fp32",
    ema: float | None = None,
    optimizer: Any = "adamw",
) -> Engine:
    return Engine(
        built,
        settings(zero=zero, clip=clip, precision=precision, ema=ema, optimizer=optimizer),
        accumulation=accumulation,
        raw_deepspeed={"zero_optimization": PARTITIONED},
        seed=seed,
    )


def packed(documents: list[tiny_step.Document], table: np.ndarray = tiny_step.TABLE) -> PackedBatch:
    """One row of these documents and a few padding positions; without documents, padding only."""
    tokens = np.concatenate([np.zeros(0, np.int32), *(d.tokens for d in documents)])
    kinds = np.concatenate([np.zeros(0, np.uint8), *(d.kinds for d in documents)])
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)]).astype(np.int64)
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, table, length=len(tokens) + 3, pad_id=0)


def head_is_partitioned(of: Engine) -> bool:
    return of.module.model.get_output_embeddings().weight.numel() == 0


def take_step(of: Engine, micro: list[MicroStep], **more: Any) -> Any:
    for one in micro:
        of.backward(of.forward(one)[0])
    return of.step(tiny_step.ADAM["lr"], **more)


def shared_out(step: int, of: Engine, idle: str = "") -> list[MicroStep]:
    """This rank's micro-steps. With ``idle`` (weightless or empty) the last rank gets nothing that has weight."""
    everything, scale = tiny_step.documents(step), tiny_step.normaliser(step)
    working = of.ranks - 1 if idle else of.ranks
    slots = working * of.accumulation
    found = []
    for index in range(of.accumulation):
        mine = everything[index * working + of.rank :: slots]
        if idle and of.rank == working:
            mine = [tiny_step.weightless(step)] if idle == "weightless" else []
        found.append(MicroStep(packed(mine), scale))
    return found


def same_everywhere(value: float) -> bool:
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(one == value or (one != one and value != value) for one in values)


def fingerprint(of: Engine) -> list[Tensor]:
    """Copies of this rank's parameters, moments, averages and step counters."""
    found = []
    for piece in zero_layout.pieces(of.deepspeed):
        found.append(piece.value.clone())
        if piece.key is not None:
            found += [piece.moment(of.optimizer, name).clone() for name in piece.moments]
            found += [of.ema.of(piece).clone()] if of.ema else []
    found += [tensor.clone() for tensor in zero_layout.whole_states(of.deepspeed, of.rank, written=False).values()]
    return [*found, torch.tensor(zero_layout.count_updates(of.deepspeed))]


def all_agree(verdict: bool) -> bool:
    votes = torch.tensor(int(verdict))
    dist.all_reduce(votes, op=dist.ReduceOp.MIN)
    return bool(votes)


def equal(a: list[Tensor], b: list[Tensor]) -> bool:
    """Bit for bit, on every rank."""
    return all_agree(len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True)))
