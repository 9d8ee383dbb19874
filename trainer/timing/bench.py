"""One case of ``tracestill bench``, as the ranks run it: the training loop itself for a few steps, timed; nothing kept.

deepspeed --num_gpus 2 --module tracestill.trainer.timing.bench \\
    --run-dir runs/demo --arm traces --case case.json --out DIR

A case is a JSON object: a ``recipe``, ``changes`` to it (nested, as in YAML), ``warmup`` and ``steps``. The log is read
after every ``warmup`` steps, so the first reading holds the warm-up alone. Rank 0 writes ``DIR/result.json``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import argparse
import functools
import json
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import write_json
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.plan.plan_stage import planner_of
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.assembly.prepare import PlanOfEpoch, prepare
from tracestill.trainer.checkpoint.saver import NoSaver
from tracestill.trainer.engine.engine import connect, leave
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.metrics.log import LOG, is_of_steps, read_log
from tracestill.trainer.ranks.collective_stats import counted_collectives
from tracestill.trainer.ranks.collectives import exchange, gather_json
from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.phases import Phases
from tracestill.trainer.ranks.placement import find_placement
from tracestill.trainer.ranks.rendezvous import NotMet
from tracestill.trainer.recipe.precision import use_gpu
from tracestill.trainer.recipe.recipe import MAIN_ARM, Recipe, build, merge
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.timing.stopwatch import Stopwatch, others
from tracestill.trainer.train import train

RESULT = "result.json"
BARE: dict[str, Any] = {  # the steps alone: nothing is measured, saved or told elsewhere meanwhile
    **{"epochs": None, "schedule": "constant", "warmup": 0, "decay": 0, "stop_after": None},
    **{"held_out_every": 0, "held_out_questions": 0, "checkpoint_every": 0, "checkpoint_interval": None},
    **{"metric": None, "patience": None, "export": "last"},
    **{"monitor": {"tensorboard": False, "wandb": None, "comet": None}},
}
PARTS = ("data", "forward", "backward", "optimizer", "communication")


def changed(recipe: Recipe, case: Mapping[str, Any], *, profiled: bool) -> Recipe:
    """An arm's recipe as a case wants it. ``profiled``: as many steps follow as it warms up with.

    Raises InputError for what the recipe cannot be changed to.
    """
    steps = case["warmup"] + case["steps"] + (case["warmup"] if profiled else 0)
    bare = {"train": {**BARE, "steps": steps, "log_every": case["warmup"]}}
    held = recipe.model_dump(mode="json", exclude={"arms"})
    return build(merge(merge(held, bare), case["changes"]), where="bench")


def plans(encode: Path, config: PlanConfig, seed: int, scores: Mapping[str, Path]) -> PlanOfEpoch:
    """Epoch -> its plan, made here: the one on disk may be for other packs."""
    return functools.lru_cache(maxsize=2)(planner_of(encode, config, seed, scores).plan)


def run_case(
    run: RunDirectory, arm: str, recipe: Recipe, directory: Path, watchdog: Watchdog, stopwatch: Stopwatch
) -> int:
    """Train, and write what was measured. Always 0."""
    phases = Phases()
    phases.subscribe(watchdog.phase)
    phases.subscribe(stopwatch.phase)
    job = prepare(
        run,
        arm,
        phases=phases,
        recipe=recipe,
        directory=directory,
        plan_of_epoch=plans(run.stage(arm, "encode"), recipe.plan, recipe.seed, run.scores_planned(arm)),
        saver=NoSaver(),
    )
    now, hand_over = time.perf_counter(), watchdog.hand_over
    with StopRequest(directory, seconds=None, started=now, rank=job.engine.rank, hand_over=hand_over) as stop:
        train(job, stop)
    found = measured(job, stopwatch)
    if job.engine.rank == 0:
        write_json(directory / RESULT, found)
    return 0


def measured(job: Job, watch: Stopwatch) -> dict[str, Any]:
    """What the counted steps came to; called on every rank."""
    parts = watch.split()
    own = torch.tensor([parts[name] for name in PARTS], dtype=torch.float64)
    table = torch.stack(exchange(own))  # (ranks, parts)
    placement = find_placement()
    loads = gather_json(watch.load())
    if job.engine.rank != 0:
        return {}
    waits = table[:, PARTS.index("communication")]
    every = [line for line in read_log(job.directory / LOG) if is_of_steps(line)]
    rounds = [line for line in every if watch.first < line["step"] <= watch.last]
    return {
        "ranks": job.engine.ranks,
        "nodes": len(placement.ranks),
        "device": device_name(job.engine.device),
        "precision": str(job.engine.dtype).removeprefix("torch."),
        "zero": job.engine.settings.zero,
        "offload": job.recipe.train.offload.model_dump(mode="json", include={"optimizer", "parameters"}),
        "capacity": job.recipe.plan.capacity,
        "packs_per_step": job.recipe.plan.packs_per_step,
        "accumulation": job.batches.accumulation,
        "sequence_parallel": job.recipe.train.sequence_parallel,
        "recompute": job.recipe.student.activation_checkpointing,
        "parameters": elements(job.engine.module.parameters()),
        "trained_parameters": elements(p for p in job.engine.module.parameters() if p.requires_grad),
        "steps": watch.last - watch.first,
        **rates(rounds, watch.last - watch.first, job.engine.ranks),
        "split": dict(zip(PARTS, table.mean(dim=0).tolist(), strict=True)),
        # the rank that comes last waits for nobody: what the others wait longer than it is lost to unequal work
        "waiting": float((waits - waits.min()).mean()),
        "others": others(loads, placement.ranks),
        "loss_first": every[0]["loss"],
        "collectives": watch.collectives(),
    }


def elements(parameters: Iterable[Any]) -> int:
    """How many numbers they hold, whole or cut up by ZeRO-3."""
    return sum(getattr(p, "ds_numel", p.numel()) for p in parameters)


def rates(rounds: Sequence[Mapping[str, Any]], steps: int, ranks: int) -> dict[str, Any]:
    """Medians over lines of the log that hold ``steps`` steps together, and the spread of the throughput."""

    def middle(key: str) -> float | None:
        values = [line[key] for line in rounds if line[key] is not None]
        return statistics.median(values) if values else None

    speeds = [line["tokens_per_second"] for line in rounds]
    flops = [line["tflops"] * line["seconds"] * ranks * 1e12 for line in rounds if line["tflops"] is not None]
    return {
        "tokens_per_second": middle("tokens_per_second"),
        "tokens_per_second_lowest_highest": [min(speeds), max(speeds)],
        "tokens_per_second_per_device": statistics.median(speeds) / ranks,
        "weighted_tokens_per_second": middle("weighted_tokens_per_second"),
        "tflops_per_device": middle("tflops"),
        "mfu": middle("mfu"),
        "padding": middle("padding"),
        "balance": middle("balance"),
        "memory_gib": max(line["memory_gib"] for line in rounds),
        "step_seconds": sum(line["seconds"] for line in rounds) / steps,
        "tokens_per_step": sum(line["tokens"] for line in rounds) / steps,
        "flops_per_step": sum(flops) / steps if flops else None,
    }


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def main(words: Sequence[str] | None = None) -> int:
    """Measure, as one of the ranks. Exit codes as of ``trainer.train``."""
    parser = argparse.ArgumentParser(description="Time one setting of a recipe; started by `tracestill bench`.")
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--arm", default=MAIN_ARM)
    parser.add_argument("--case", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    arguments = parser.parse_args(words)
    with counted_collectives() as stats:
        try:
            case = json.loads(arguments.case.read_text(encoding="utf-8"))
            run = RunDirectory(arguments.run_dir, build(case["recipe"], where="bench"))
            recipe = changed(run.recipe.for_arm(arguments.arm), case, profiled=use_gpu())
            world = connect(recipe.train)
        except InputError as error:
            say(f"error: {error}", err=True)
            return error.exit_code
        except NotMet as error:
            say(f"failed: {error}", err=True)
            return EXIT_FAILED
        out: Path = arguments.out
        out.mkdir(parents=True, exist_ok=True)
        stopwatch = Stopwatch(stats, world.device, first=case["warmup"], steps=case["steps"])
        with Watchdog(out, recipe.train.watchdog) as watchdog:
            return watchdog.over(lambda: run_case(run, arguments.arm, recipe, out, watchdog, stopwatch))


if __name__ == "__main__":
    leave(main())
