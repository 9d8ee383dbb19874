"""What DeepSpeed and our loop cost beside forward and backward: the part `trainer_cpu.py` starts on two ranks.

The same two processes run, in turns, a step of the trainer as `train.py` takes it (packing the batch, forward and
backward through the engine, the all-reduced check, the update, the meter) at each ZeRO stage, and a step of the
shortest loop that trains: batches packed beforehand, forward and backward of the same student with the same loss,
gradients in one flat buffer, one all-reduce, torch's fused AdamW. 10M parameters, fp32, one thread a rank, packs of
2,048 tokens, one micro-step a step and four. The short loop neither clips, nor checks for what is not finite, nor
keeps numbers. A step's time is that of the slower rank; overhead is the median, over rounds, of the two times'
ratio less one. Beside it stands the same of CPU seconds, both ranks' together: waiting for the other rank is not in
it, nor is another program's work, which a step of two ranks meets twice.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from machine import claim, table
from trainer_steps import KINDS, our_step, run_ranks, write_store

from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.engine.engine import connect, leave
from tracestill.trainer.optimizers.groups import parameter_groups
from tracestill.trainer.recipe.settings import TrainConfig
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.student import Student, build_student
from tracestill.trainer.weighting import WeightingConfig, make_weighting

RANKS = 2
STAGES = (0, 1, 2, 3)
FULL = {"hidden": 256, "layers": 10, "vocabulary": 8192, "capacity": 2048, "rounds": {"1": 7, "4": 3}}
TINY = {"hidden": 32, "layers": 1, "vocabulary": 64, "capacity": 128, "rounds": {"4": 1}}


def student(sizes: dict[str, Any]) -> Student:
    shape = {"hidden_size": sizes["hidden"], "intermediate_size": 3 * sizes["hidden"]}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": sizes["layers"]}
    config = StudentConfig(config={"model_type": "llama", **shape, **heads, "tie_word_embeddings": True})
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    return build_student(config, vocab_size=sizes["vocabulary"], num_kinds=len(KINDS), seed=0, **ids)


def short_step(settings: TrainConfig, batches: Batches, built: Student, steps: int) -> Callable[[int], float]:
    """The loop that everything is compared with."""
    packed = [batches.step(at).micro for at in range(steps)]
    parameters = list(built.parameters())
    flat = torch.zeros(sum(p.numel() for p in parameters))
    for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    groups = parameter_groups(built, settings.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True)

    def step(at: int) -> float:
        flat.zero_()
        total = 0.0
        for micro in packed[at]:
            loss, _ = built(micro.packed, micro.scale)
            loss.backward()
            total += float(loss.detach())
        dist.all_reduce(flat)
        optimizer.step()
        return total

    return step


def work(folder: Path, accumulation: int, sizes: dict[str, Any]) -> dict[str, Any]:
    """On each rank: seconds (of the slower rank) and CPU seconds (of both) of every round's step, by candidate."""
    torch.set_num_threads(1)
    rounds = sizes["rounds"][str(accumulation)]
    settings = [TrainConfig(steps=rounds + 1, zero=stage, clip=1.0, lr=1e-3) for stage in STAGES]  # type: ignore[arg-type]
    world = connect(settings[0])
    store = TokenStore(folder / "tokens.arrow", KINDS)
    plan_config = PlanConfig(capacity=sizes["capacity"], packs_per_step=RANKS * accumulation)
    plan = make_plan(store.lengths, plan_config, seed=0, epoch=0)
    weighting = make_weighting(WeightingConfig(weights={"prompt": 0}), KINDS, 0)
    where: dict[str, Any] = {"rank": world.rank, "ranks": world.ranks, "pad_id": 0, "device": world.device}
    batches = Batches(store, lambda epoch: plan, weighting, **where)
    candidates = {"short loop": short_step(settings[0], batches, student(sizes), rounds + 1)}
    for stage, setting in zip(STAGES, settings, strict=True):
        candidates[f"ZeRO {stage}"] = our_step(setting, batches, student(sizes))
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in candidates}
    losses: dict[str, list[float]] = {name: [] for name in candidates}
    order = list(candidates.items())
    for at in range(rounds + 1):  # the first round warms up
        shift = at % len(order)
        for name, step in order[shift:] + order[:shift]:
            dist.barrier()
            start, worked = time.perf_counter(), time.process_time()
            loss = step(at)
            taken = torch.tensor(time.perf_counter() - start)
            worked = torch.tensor(time.process_time() - worked)
            dist.all_reduce(taken, op=dist.ReduceOp.MAX)
            dist.all_reduce(worked)
            if name == "short loop":  # the engine's is summed over ranks already
                both = torch.tensor(loss, dtype=torch.float64)
                dist.all_reduce(both)
                loss = float(both)
            losses[name].append(loss)
            if at:
                seconds[name].append(float(taken))
                cpu_seconds[name].append(float(worked))
    if not np.allclose(losses["short loop"][0], [losses[name][0] for name in losses], rtol=1e-5):
        raise RuntimeError(f"the loops differ at the first step, the comparison means nothing: {losses}")
    parameters = sum(p.numel() for p in student(sizes).parameters())
    times = {"seconds": seconds, "cpu_seconds": cpu_seconds}
    return {"parameters": parameters, **times, "losses": {name: values[-1] for name, values in losses.items()}}


def measure(*, tiny: bool) -> dict[str, Any]:
    """Start the two ranks, once for each accumulation."""
    sizes: dict[str, Any] = TINY if tiny else FULL
    found: dict[str, Any] = {"sizes": sizes}
    with tempfile.TemporaryDirectory(prefix="trainer-overhead-") as name:
        folder = Path(name)
        capacity, tokens = sizes["capacity"], (max(sizes["rounds"].values()) + 1) * 4 * RANKS * sizes["capacity"]
        how = {"vocabulary": sizes["vocabulary"], "median": capacity / 10, "longest": capacity, "prompt": 0.25}
        write_store(folder / "tokens.arrow", tokens, **how)
        for accumulation in map(int, sizes["rounds"]):
            out = folder / f"{accumulation}.json"
            run_ranks(RANKS, __file__, [name, str(accumulation), *(["tiny"] if tiny else [])], folder)
            found[f"accumulation {accumulation}"] = summary(json.loads(out.read_text(encoding="utf-8")), accumulation)
    return found


def summary(found: dict[str, Any], accumulation: int) -> dict[str, Any]:
    for name, times in found["seconds"].items():
        ratios = over_short_loop(found["seconds"], name)
        found[name] = {
            "milliseconds_per_micro_step": 1e3 * statistics.median(times) / accumulation,
            "overhead": statistics.median(ratios),
            "overhead_lowest_highest": [min(ratios), max(ratios)],
            "overhead_in_cpu_seconds": statistics.median(over_short_loop(found["cpu_seconds"], name)),
        }
    return found


def over_short_loop(times: dict[str, list[float]], name: str) -> list[float]:
    return [own / other - 1 for own, other in zip(times[name], times["short loop"], strict=True)]


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        claim(f"overhead, ZeRO {stage}, accumulation {accumulation}", measured[f"ZeRO {stage}"]["overhead"], "<=", 0.15)
        for accumulation in (1, 4)
        for measured in [found[f"accumulation {accumulation}"]]
        for stage in STAGES
    ]


def show(found: dict[str, Any]) -> None:
    for accumulation in found["sizes"]["rounds"]:
        measured = found[f"accumulation {accumulation}"]
        print(f"\n{RANKS} ranks, {measured['parameters']:,} parameters, accumulation {accumulation}")
        rows = []
        for name in measured["seconds"]:
            of = measured[name]
            low, high = of["overhead_lowest_highest"]
            spread = f"{low:+.1%} to {high:+.1%}"
            cpu = f"{of['overhead_in_cpu_seconds']:+.1%}"
            rows.append([name, of["milliseconds_per_micro_step"], f"{of['overhead']:+.1%}", spread, cpu])
        print(table(["", "ms a micro-step", "overhead", "rounds", "in CPU seconds"], rows))


def main() -> int:
    folder, accumulation = Path(sys.argv[1]), int(sys.argv[2])
    found = work(folder, accumulation, TINY if "tiny" in sys.argv else FULL)
    if dist.get_rank() == 0:
        (folder / f"{accumulation}.json").write_text(json.dumps(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    leave(main())
