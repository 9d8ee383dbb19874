"""Training: the loop, and the entry point that DeepSpeed's launcher starts on every rank.

deepspeed --num_gpus 2 --module tracestill.trainer.train --run-dir runs/demo --arm traces [--resume]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from rich.console import Console

from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.plan import load_plan
from tracestill.data_pipeline.stage import Stage, identity, read_manifest, write_json, write_manifest
from tracestill.data_pipeline.store import TokenStore
from tracestill.trainer import checkpoint
from tracestill.trainer.batches import Batches
from tracestill.trainer.engine import Engine, connect, training_dtype
from tracestill.trainer.export import export
from tracestill.trainer.held_out import HeldOut
from tracestill.trainer.preview import preview, read_tokenizer, show
from tracestill.trainer.reading_model import use_weighting
from tracestill.trainer.recipe import MAIN_ARM, Recipe, dump_recipe
from tracestill.trainer.run_directory import RunDirectory
from tracestill.trainer.settings import learning_rate
from tracestill.trainer.student import build_student
from tracestill.trainer.telemetry import Log, Meter
from tracestill.trainer.weighting import Weighting, end_step, make_weighting, restore, state_of
from tracestill.trainer.weighting_effect import warnings

CHECKPOINTS = "checkpoints"


@dataclass
class Job:
    """Everything one rank needs to train one arm."""

    run: RunDirectory
    arm: str
    recipe: Recipe  # with the arm's overrides
    identity: dict[str, Any]  # what decides whether a finished training is current
    directory: Path  # runs/<name>/arms/<arm>/train
    tokenizer: Path
    store: TokenStore
    weighting: Weighting
    batches: Batches
    held_out: HeldOut | None
    engine: Engine
    steps: int
    console: Console


def train(job: Job, start: int) -> None:
    """Optimizer steps ``start`` to the last: a micro-step a pack, an update a step, a line of numbers now and then."""
    settings, engine = job.recipe.train, job.engine
    meter = Meter(job.recipe.span_kinds(), engine.device)
    log = Log(job.directory / "log.jsonl", resume_at=start, write=engine.rank == 0)
    for step in range(start, job.steps):
        if job.held_out and step % settings.held_out_every == 0:
            log.add(event="held_out", step=step, kinds=job.held_out.measure(engine))
        batch = job.batches.step(step)
        for micro in batch.micro:
            loss, statistics = engine.forward(micro)
            engine.backward(loss)
            meter.add(statistics)
        rate = learning_rate(settings, step, job.steps)
        result = engine.step(rate, weight_sum=batch.weight_sum)
        end_step(job.weighting)
        meter.end_step(result.loss, batch.tokens)
        done = step + 1
        last = done == job.steps
        if result.skipped:
            log.add(event="skipped", step=done, reason=result.reason)
        if last or done % settings.log_every == 0:
            numbers = meter.read()
            log.add(step=done, epoch=job.batches.epoch, lr=rate, grad_norm=result.grad_norm, **numbers)
            job.console.print(line_of(done, job.steps, numbers), highlight=False)
        if last or (settings.checkpoint_every and done % settings.checkpoint_every == 0):
            state = {"step": done, "identity": job.identity, "weighting": state_of(job.weighting)}
            checkpoint.save(engine, job.directory / CHECKPOINTS, done, state, keep=settings.keep)
    if job.held_out:
        log.add(event="held_out", step=job.steps, kinds=job.held_out.measure(engine))


def line_of(step: int, steps: int, numbers: dict[str, Any]) -> str:
    kinds = "  ".join(f"{name} {found['loss']:.3f}" for name, found in numbers["kinds"].items())
    return f"step {step}/{steps}  loss {numbers['loss']:.4f}  {kinds}  {numbers['tokens_per_second']:,.0f} tokens/s"


def prepare(run: RunDirectory, arm: str) -> Job:
    """Open the data, join the other ranks, build the student. Raises InputError naming a stage that has not run."""
    recipe = run.recipe.for_arm(arm)
    settings, kinds = recipe.train, recipe.span_kinds()
    config, inputs = run.train_stage(arm)
    who = identity("train", config, inputs)
    about = read_manifest(inputs["encode"]) or {}
    store = TokenStore(inputs["encode"] / "tokens.arrow", kinds)
    world = connect(settings)
    ids = {f"{name}_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    vocabulary = {"vocab_size": about["vocab_size"], "num_kinds": len(kinds), **ids}
    student = build_student(
        recipe.student,
        **vocabulary,
        seed=recipe.seed,
        device=world.device,
        dtype=training_dtype(settings, world.device),
        chunk_rows=settings.chunk_rows,
    )
    weighting = make_weighting(recipe.weighting, kinds, recipe.seed)
    use_weighting(
        student,
        weighting,
        vocabulary=vocabulary,
        device=world.device,
        dtype=training_dtype(settings, world.device),
        attention=recipe.student.attention,
        chunk_rows=settings.chunk_rows,
    )
    batches = Batches(
        store,
        lambda epoch: load_plan(inputs["plan"] / f"epoch-{epoch:03d}"),
        weighting,
        normaliser=recipe.weighting.normaliser,
        rank=world.rank,
        ranks=world.ranks,
        pad_id=about["special_ids"]["pad"],
        device=world.device,
    )
    engine = Engine(
        student, settings, accumulation=batches.accumulation, raw_deepspeed=recipe.deepspeed, seed=recipe.seed
    )
    held_out = None
    if settings.held_out_every and (inputs["encode"] / "test.arrow").exists():
        documents = TokenStore(inputs["encode"] / "test.arrow", kinds)
        held_out = HeldOut(
            documents,
            kinds,
            capacity=recipe.plan.capacity,
            documents=settings.held_out_documents,
            pad_id=about["special_ids"]["pad"],
        )
    steps = settings.steps or batches.steps_per_epoch * (settings.epochs or 1)
    directory, tokenizer = run.stage(arm, "train"), inputs["tokenizer"]
    console = Console(quiet=world.rank != 0)
    console.print(
        f"{world.ranks} rank(s) on {world.device.type}, {training_dtype(settings, world.device)}, ZeRO {settings.zero}, "
        f"accumulation {batches.accumulation}, {steps} steps; attention {student.attention.backend}: "
        f"{student.attention.reason}",
        highlight=False,
    )
    return Job(run, arm, recipe, who, directory, tokenizer, store, weighting, batches, held_out, engine, steps, console)


def show_preview(job: Job) -> None:
    """Measure the first step without learning from it; print and store what the weighting does to it."""
    kinds = job.recipe.span_kinds()
    meter = Meter(kinds, job.engine.device)
    batch = job.batches.step(0)
    for micro in batch.micro:
        meter.add(job.engine.measure(micro))
    measured = meter.read()["kinds"]
    if job.engine.rank == 0:
        normaliser = job.recipe.weighting.normaliser
        found = preview(
            kinds,
            job.store,
            batch.documents,
            job.weighting,
            measured,
            read_tokenizer(job.tokenizer),
            normaliser=normaliser,
            warnings=warnings(job.weighting, normaliser, kinds, job.store, job.steps),
        )
        write_json(job.directory / "preview.json", found)
        show(found, kinds, job.console)


def open_directory(job: Job, resume: bool) -> int:
    """Make the training's directory ready; the step to go on from, 0 to begin anew.

    Raises InputError if unfinished training is there and ``resume`` is False, or if it is another recipe's.
    """
    found = checkpoint.latest(job.directory / CHECKPOINTS)
    if resume and found is None:
        raise InputError(f"{job.directory}: no committed checkpoint to resume from; train without --resume")
    if found is not None:
        same = json.loads((found / checkpoint.STATE).read_text(encoding="utf-8"))["identity"] == job.identity
        if resume and not same:
            raise InputError(f"{job.directory}: its checkpoints are of another recipe or other data; delete it first")
        if resume:
            state = checkpoint.load(job.engine, found)
            restore(job.weighting, state.get("weighting", {}))
            return int(state["step"])
        if same and read_manifest(job.directory) is None:
            raise InputError(f"{job.directory}: holds unfinished training; pass --resume to go on, or delete it")
    dist.barrier()  # every rank has looked
    if job.engine.rank == 0:
        empty(job.directory)
    dist.barrier()
    return 0


def empty(directory: Path) -> None:
    """Empty a training directory, but keep the launcher's log, which is being written."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "console.log":
            path.unlink()


def finish(job: Job, seconds: float) -> None:
    """Export the student, then write the manifest that says that training is done."""
    state = checkpoint.full_state_dict(job.engine)
    if job.engine.rank == 0:
        about = read_manifest(job.run.stage(job.arm, "encode")) or {}
        export(
            job.engine.module.model,
            job.tokenizer,
            job.directory / "export",
            title=f"{job.recipe.name}, arm {job.arm}",
            recipe=dump_recipe(job.recipe),
            counts=about.get("counts", {}),
            state_dict=state,
        )
        work = Stage(job.directory, counts={"steps": job.steps, "ranks": job.engine.ranks})
        write_manifest(job.directory, job.identity, work, seconds)
    dist.barrier()


def main() -> None:
    """Entry point of every rank. Exit codes: 0 done, 2 bad input (one line on stderr)."""
    parser = argparse.ArgumentParser(description="Train one arm of a run; started by DeepSpeed's launcher.")
    parser.add_argument("--run-dir", type=Path, required=True, help="directory whose stages up to plan have run")
    parser.add_argument("--arm", default=MAIN_ARM, help="arm of the recipe (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the newest committed checkpoint")
    parser.add_argument("--local_rank", type=int, default=0, help="given by the launcher")
    arguments = parser.parse_args()
    started = time.perf_counter()
    try:
        job = prepare(RunDirectory.open(arguments.run_dir), arguments.arm)
        start = open_directory(job, arguments.resume)
        if start == 0:
            show_preview(job)
        train(job, start)
        finish(job, time.perf_counter() - started)
    except InputError as error:
        if int(os.environ.get("RANK", "0")) == 0:
            print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
