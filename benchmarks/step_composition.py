"""What a step is made of, and how fast a student learns from it: held-out loss of our trainer under other plans.

    python benchmarks/step_composition.py [--json PATH] [--cases NAME ...] [--seeds N ...] [--tiny]

The student, the traces and the learning rate of `trainer_cpu.py`: 1.1M parameters, 2,000 traces, a step of about 1,900
tokens; one process, one thread, steps counted and no time. Only the plan differs: which documents form a step. The
held-out loss is the mean over all tokens of 100 documents but the prompts', every 32 steps. A seed decides the
student's first weights and the order of documents. ``sameness`` is the plan's own: the variance of steps' mean length
over what it would be if their documents were drawn at random (1).

What plans of 200,000 trace-like documents come to is measured beside it, without training: packs beyond the fewest,
``sameness``, and the work of 8 and 64 ranks, largest over mean; by best fit alone, and as planned.

Cases end up in the JSON one by one, and what stands there already is not trained again. Exits 1 if a claim does not
hold. `--tiny`: a few short traces, to see that it runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trainer_cpu
from machine import claim, finish, table
from planner_memory import trace_lengths
from trainer_traces import prepare as prepare_data
from trainer_traces import store
from transformers import AutoConfig, AutoModelForCausalLM

from tracestill.data_pipeline.plan.plan import Plan, PlanConfig, Planner, imbalance, pack_costs, sameness
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.checkpoint.saver import NoSaver
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.metrics.log import LOG, read_log
from tracestill.trainer.recipe.recipe import MAIN_ARM, build, merge
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import train

ROWS = 8  # documents of a padded trainer's step, and of a pack on average
EVERY = 32  # steps between two measurements
MakePlan = Callable[[np.ndarray, int, int, int], Plan]  # lengths, capacity, seed, epoch


def planned(*, best_fit: bool = False, **config: Any) -> MakePlan:
    """The trainer's own plans; with ``best_fit`` as they were before packs were mixed, and are for encoder-decoders."""

    def make(lengths: np.ndarray, capacity: int, seed: int, epoch: int) -> Plan:
        settings = PlanConfig(**{"capacity": capacity, "packs_per_step": 1, **config})
        return Planner(lengths, settings, seed=seed, alike=best_fit).plan(epoch)

    return make


def drawn(order: Callable[[np.ndarray, int, int], np.ndarray]) -> MakePlan:
    """So many documents a step, in this order, as padded trainers take them; what is left at the end is not read."""

    def make(lengths: np.ndarray, capacity: int, seed: int, epoch: int) -> Plan:
        ids = order(lengths, seed, epoch)
        begins = np.arange(0, len(ids) + 1, ROWS)
        steps = np.arange(len(begins) - 1, dtype=np.int32)[:, None]
        return Plan(1 << 24, 1, ids[: begins[-1]].astype(np.int32), begins.astype(np.int64), steps)

    return make


def at_random(lengths: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(len(lengths))


def as_trainer(lengths: np.ndarray, seed: int, epoch: int) -> np.ndarray:
    """The order in which Hugging Face's Trainer reads documents, with accelerate's seeded sampler."""
    return torch.randperm(len(lengths), generator=torch.Generator().manual_seed(seed + epoch)).numpy()


@dataclass(frozen=True)
class Case:
    """One way to make steps."""

    plan: MakePlan
    over: dict[str, Any] = field(default_factory=dict)  # changes to the recipe


CASES = {
    "best fit": Case(planned(best_fit=True)),
    "the plan": Case(planned()),
    "8 random": Case(drawn(at_random)),
    "8 random, Trainer's order": Case(drawn(as_trainer)),
    "best fit, mean over documents": Case(planned(best_fit=True), {"weighting": {"normaliser": "examples"}}),
    "best fit, 2 packs, groups of 2": Case(planned(best_fit=True, packs_per_step=2)),
    "best fit, 2 packs, balance off": Case(planned(best_fit=True, packs_per_step=2, balance="off")),
    "the plan, 2 packs, groups of 2": Case(planned(packs_per_step=2)),
}


def measure_plans(documents: int) -> list[dict[str, Any]]:
    """Plans of long and of short traces, a pack a step and 64 packs a step with large, small and no groups."""
    found = []
    for median, capacity in ((3500, 16_384), (900, 16_384), (3500, 32_768)):
        lengths = trace_lengths(documents, median, capacity)
        least = -(-int(lengths.sum(dtype=np.int64)) // capacity)
        for name, best_fit in (("best fit", True), ("the plan", False)):
            for packs, group, balance in ((1, 1, "cost"), (64, 64, "cost"), (64, 8, "cost"), (64, 64, "off")):
                settings = {"capacity": capacity, "packs_per_step": packs, "group": group, "balance": balance}
                plan = planned(best_fit=best_fit, **settings)(lengths, capacity, 0, 0)
                costs = pack_costs(plan, lengths)
                row = {"packer": name, "median": median, **settings, "packs_over_least": plan.n_packs / least - 1}
                work = {ranks: imbalance(plan, costs, ranks) for ranks in (8, 64) if packs >= ranks}
                found.append({**row, "sameness": sameness(plan, lengths), "work": work})
    return found


def start_of(folder: Path, seed: int) -> Path:
    """A student like that in ``folder/start``, with the first weights of this seed."""
    path = folder / f"start-{seed}"
    if not path.exists():
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder / "start")).save_pretrained(path)
    return path


def learn(run: RunDirectory, case: Case, seed: int, out: Path, every: int) -> dict[str, Any]:
    """Train by the case's plan for one epoch; the curve of the held-out loss."""
    began = time.process_time()
    over = {
        "seed": seed,
        "student": {"pretrained": str(start_of(run.root.parent, seed))},
        "train": {"held_out_every": every, "held_out_documents": 100, "log_every": every},
    }
    recipe = run.recipe.for_arm(MAIN_ARM)
    changed = build(merge(merge(recipe.model_dump(mode="json", exclude={"arms"}), over), case.over), where="case")
    lengths = np.asarray(store(run).lengths)
    plan = case.plan(lengths, changed.plan.capacity, seed, 0)
    out.mkdir(parents=True)
    job = prepare(run, MAIN_ARM, recipe=changed, directory=out, plan_of_epoch=lambda epoch: plan, saver=NoSaver())
    with StopRequest(out, seconds=None, started=time.perf_counter(), rank=0) as stop:
        train(job, stop)
    sizes = [np.concatenate(plan.step(step)) for step in range(plan.n_steps)]
    documents = np.cumsum([0, *(len(step) for step in sizes)])
    tokens = np.cumsum([0, *(int(lengths[step].sum()) for step in sizes)])
    curve = [
        {
            "step": line["step"],
            "documents": int(documents[line["step"]]),
            "tokens": int(tokens[line["step"]]),
            "loss": loss_of(line["kinds"]),
        }
        for line in read_log(out / LOG)
        if line.get("event") == "held_out"
    ]
    about = {"steps": plan.n_steps, "packs": plan.n_packs, "sameness": sameness(plan, lengths)}
    return {**about, "curve": curve, "cpu_seconds": time.process_time() - began}


def loss_of(kinds: dict[str, dict[str, float]]) -> float:
    """Mean over all tokens but the prompts'."""
    counted = [found for name, found in kinds.items() if name != "prompt"]
    return sum(kind["loss"] * kind["count"] for kind in counted) / sum(kind["count"] for kind in counted)


def measure(
    folder: Path,
    sizes: dict[str, Any],
    wanted: list[tuple[str, int]],
    every: int,
    known: dict[str, Any],
    path: Path | None,
) -> dict[str, Any]:
    """Case -> seed -> what ``learn`` found; ``known`` holds what an earlier call did, and is added to."""
    run = prepare_data(folder, sizes["shape"], **sizes["sizes"])
    for name, seed in wanted:
        if str(seed) not in known.setdefault(name, {}):
            out = folder / f"{list(CASES).index(name)}-{seed}"
            known[name][str(seed)] = learn(run, CASES[name], seed, out, every)
            if path is not None:
                path.write_text(json.dumps({"cases": known}), encoding="utf-8")
    return known


def last(found: dict[str, Any], name: str, seed: str) -> float:
    return found[name][seed]["curve"][-1]["loss"]


def claims_of(found: dict[str, Any]) -> list[dict[str, Any]]:
    def both(one: str, other: str) -> list[str]:
        return sorted(found.get(one, {}).keys() & found.get(other, {}).keys())

    claims = []
    for name, rival, bar in [
        ("the plan", "best fit", 0.98),
        ("the plan", "8 random", 1.02),
        ("the plan, 2 packs, groups of 2", "best fit, 2 packs, groups of 2", 1.0),
    ]:
        if seeds := both(name, rival):
            ratio = statistics.mean(last(found, name, seed) / last(found, rival, seed) for seed in seeds)
            claims.append(claim(f"held-out loss after the same documents, {name} over {rival}", ratio, "<=", bar))
    return claims


def claims_of_plans(plans: list[dict[str, Any]]) -> list[dict[str, Any]]:
    half = len(plans) // 2
    owned = [row for row in plans if row["packer"] == "the plan"]
    before = [row for row in plans if row["packer"] == "best fit"]
    ratios = [one["sameness"] / other["sameness"] for one, other in zip(owned, before, strict=True)]
    work = [row["work"][row["group"]] for row in owned if row["group"] in row["work"] and row["balance"] == "cost"]
    return [
        claim(f"sameness, the plan over best fit: largest of {half}", max(ratios), "<=", 0.7),
        claim("packs over the fewest possible, largest", max(row["packs_over_least"] for row in owned), "<=", 0.005),
        claim("max/mean work of as many ranks as a group has packs, largest", max(work), "<=", 1.01),
    ]


def show(found: dict[str, Any], plans: list[dict[str, Any]]) -> None:
    rows = [
        [
            *(row[key] for key in ("packer", "median", "capacity", "packs_per_step", "group", "balance")),
            *(row[key] for key in ("packs_over_least", "sameness")),
            *(f"{row['work'].get(ranks, 1):.4f}" for ranks in (8, 64)),
        ]
        for row in plans
    ]
    heads = ["", "median", "capacity", "packs a step", "group", "balance", "packs over", "sameness", "8 ranks", "64"]
    print("\n" + table(heads, rows) + "\n")
    rows = []
    for name, seeds in found.items():
        for seed, case in sorted(seeds.items()):
            losses = "  ".join(f"{point['loss']:.3f}" for point in case["curve"][1:])
            rows.append([name, int(seed), case["steps"], case["sameness"], last(found, name, seed), losses])
    print(table(["", "seed", "steps", "sameness", "held-out loss", "every so many steps"], rows), flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write every figure, the machine and the claims here, case by case")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--tiny", action="store_true", help="a few short traces, no claims: to see that it runs")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    known = {}
    if wanted.json and wanted.json.exists():
        known = json.loads(wanted.json.read_text(encoding="utf-8"))["cases"]
    pairs = [(name, seed) for seed in wanted.seeds for name in wanted.cases]
    with tempfile.TemporaryDirectory(prefix="step-composition-") as folder:
        sizes, every = (trainer_cpu.TINY, 2) if wanted.tiny else (trainer_cpu.FULL, EVERY)
        found = measure(Path(folder).resolve(), sizes, pairs, every, known, wanted.json)
    plans = measure_plans(2000 if wanted.tiny else 200_000)
    show(found, plans)
    claims = [] if wanted.tiny else [*claims_of(found), *claims_of_plans(plans)]
    return finish({"cases": found, "plans": plans}, claims, wanted.json)


if __name__ == "__main__":
    sys.exit(main())
