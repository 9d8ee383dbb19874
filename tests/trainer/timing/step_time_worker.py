"""Says what DeepSpeed makes two ranks say to each other in a step, at each ZeRO stage: for test_step_time.py."""

import json
import sys

import torch
import torch.distributed as dist
from tiny_step import NUM_KINDS, SHAPE, VOCABULARY

from tracestill.kernels.pack import pack
from tracestill.trainer.engine.engine import Engine, connect, leave
from tracestill.trainer.ranks.collective_stats import CollectiveStats, counted_collectives
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.student import build_student

FEW = {"stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0, "stage3_param_persistence_threshold": 0}


class Micro:
    scale, teacher = 1.0, None

    def __init__(self, seed: int) -> None:
        tokens = torch.randint(3, VOCABULARY, (40,), generator=torch.Generator().manual_seed(seed)).numpy()
        kinds, table = torch.full((40,), 3).numpy(), torch.ones(NUM_KINDS).numpy()
        more = {"length": 128, "pad_id": 0, "device": "cpu"}
        shape = ("int32", "uint8", "int64", "float64", "float32")
        values = (tokens, kinds, torch.tensor([0, 40]).numpy(), torch.ones(1).numpy(), table)
        self.packed = pack(*(value.astype(kind) for value, kind in zip(values, shape, strict=True)), **more)


def step(engine: Engine, steps: int) -> None:
    for seed in range(steps):
        loss, _ = engine.forward(Micro(seed))
        engine.backward(loss)
    engine.step(1e-3, weight_sum=1.0)


TO_ALL, SMALL = {"use_multi_rank_bucket_allreduce": True}, {"reduce_bucket_size": 2000}
OWN = [
    *(("fp32", zero, keys) for zero in (0, 1, 2, 3) for keys in (TO_ALL, SMALL, TO_ALL | SMALL)),
    *(("bf16", 1, keys) for keys in (TO_ALL, SMALL)),
]
RELEASED = {"stage3_param_persistence_threshold": 0}


def counted(
    stats: CollectiveStats,
    precision: str,
    zero: int,
    steps: int,
    *,
    live: bool,
    freeze: bool = False,
    kept: bool | None = None,
    keys: dict | None = None,
) -> dict:
    """What a second step says; ``freeze``: with frozen embeddings, and with them the head; ``live``: parameters may
    stay gathered from the forward to the backward pass; ``kept``: and longer (default: as ``live``); ``keys``: of
    the recipe's own, in ``zero_optimization``."""
    kept = live if kept is None else kept
    config = StudentConfig(config={**SHAPE, "tie_word_embeddings": True})
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    student = build_student(config, vocab_size=VOCABULARY, num_kinds=NUM_KINDS, seed=0, dtype=dtype, **ids)
    if freeze:
        student.model.get_input_embeddings().requires_grad_(False)
    parameters = sum(p.numel() for p in student.parameters())
    trained = sum(p.numel() for p in student.parameters() if p.requires_grad)
    settings = TrainConfig(steps=1, zero=zero, precision=precision)
    raw = {"zero_optimization": ({} if kept else RELEASED if live else FEW) | (keys or {})}
    engine = Engine(student, settings, accumulation=steps, raw_deepspeed=raw)
    step(engine, steps)
    before = stats.state()
    step(engine, steps)
    after = stats.state()
    said = {name: [after[name][i] - before[name][i] for i in (0, 1)] for name in after}
    about = {
        "precision": precision,
        "zero": zero,
        "steps": steps,
        "live": live,
        "kept": kept,
        "frozen": parameters - trained,
        "keys": keys or {},
    }
    tensors = len(list(student.parameters()))
    return {**about, "parameters": parameters, "tensors": tensors, "said": said}


def main(stats: CollectiveStats) -> None:
    torch.set_num_threads(1)
    connect(TrainConfig(steps=1))
    found = []
    for precision in ("fp32", "bf16"):
        for zero in (0, 1, 2, 3) if precision == "fp32" else (1, 2, 3):
            for steps in (1, 2):
                for live in (True, False) if zero == 3 else (True,):
                    found.append(counted(stats, precision, zero, steps, live=live))
                if zero == 3:
                    found.append(counted(stats, precision, zero, steps, live=True, kept=False))
            found.append(counted(stats, precision, zero, 2, live=True, freeze=True))
    own = [counted(stats, precision, zero, 2, live=True, keys=keys) for precision, zero, keys in OWN]
    before = stats.seconds
    if dist.get_rank() == 0:
        torch.distributed.barrier()
    else:
        import time

        time.sleep(0.5)
        torch.distributed.barrier()
    waited = torch.tensor([stats.seconds - before])
    both = [torch.empty(1) for _ in range(2)]
    dist.all_gather(both, waited)
    if dist.get_rank() == 0:
        with open(sys.argv[-1], "w") as handle:
            json.dump({"cases": found, "own": own, "waited": [float(one) for one in both]}, handle)


if __name__ == "__main__":
    with counted_collectives() as counts:
        main(counts)
    leave(0)
