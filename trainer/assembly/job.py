"""Everything that one rank needs to train one arm, made ready: data, student, engine, and the train directory."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from rich.console import Console

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.stage import CONTENTS, digest_of, identity, read_manifest, same
from tracestill.data_pipeline.plan.plan import Plan, load_plan
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.batches.batches import Batches, row_of
from tracestill.trainer.batches.rectangles import RowMaker, layout_for
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint import local as checkpoint_local
from tracestill.trainer.checkpoint.best import Best
from tracestill.trainer.checkpoint.files import CHECKPOINTS, STATE
from tracestill.trainer.checkpoint.saver import Saver
from tracestill.trainer.checkpoint.train_place import empty
from tracestill.trainer.engine.engine import Engine, connect, training_dtype
from tracestill.trainer.evaluation.held_out import HeldOut, choose_store
from tracestill.trainer.evaluation.held_out_answers import HeldOutAnswers
from tracestill.trainer.export.export import check_tokenizer
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.preview.preview import token_names
from tracestill.trainer.preview.stops import check_stops
from tracestill.trainer.ranks.collectives import share_json, together
from tracestill.trainer.ranks.console import Terminal
from tracestill.trainer.ranks.placement import Placement, find_placement
from tracestill.trainer.recipe.monitor import check_installed
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import BASE, RunDirectory
from tracestill.trainer.recipe.settings import GENERATION, TrainConfig, seconds_of
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.reading_model import use_weighting
from tracestill.trainer.student.student import build_student
from tracestill.trainer.student.tiled_mlp import tile_mlps
from tracestill.trainer.weighting import Weighting, make_weighting, multiplied_kinds, restore

WEIGHTS = (".safetensors", ".bin", ".pt")
Resume = Literal["auto", "must"]


@dataclass
class Progress:
    """How far training has come; it goes into checkpoints."""

    step: int = 0  # optimizer steps done
    skips: int = 0  # the last so many of them were left out because something was not finite
    best: Best | None = None  # if the recipe names a metric

    @property
    def over(self) -> bool:
        """Whether waiting for a better measurement has ended."""
        return self.best is not None and self.best.over

    def state(self) -> dict[str, Any]:
        return {"step": self.step, "skips": self.skips, "best": self.best.state() if self.best else None}

    def restore(self, state: dict[str, Any]) -> None:
        self.step, self.skips = state["step"], state["skips"]
        if self.best and state["best"]:
            self.best.restore(state["best"])


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
    answers: HeldOutAnswers | None
    engine: Engine
    steps: int
    console: Console
    progress: Progress
    saver: Saver
    placement: Placement | None  # of ranks on hosts that share no file system; None: all share the run directory
    watch: Watchdog | None = None  # of a training that its entry point started

    def phase(self, name: str) -> None:
        """Tell the watchdog what this rank does now."""
        if self.watch is not None:
            self.watch.phase(name, self.progress.step)

    @property
    def measures(self) -> bool:
        """Whether something is measured on held-out documents or questions."""
        return self.held_out is not None or self.answers is not None

    @property
    def checkpoints(self) -> Path:
        return self.directory / CHECKPOINTS

    def load(self, path: Path) -> dict[str, Any]:
        """Put the engine into the state of a checkpoint; as ``checkpoint.load``."""
        return checkpoint.load(self.engine, path, local=self.placement is not None)


def prepare(
    run: RunDirectory,
    arm: str,
    *,
    recipe: Recipe | None = None,
    directory: Path | None = None,
    plan_of_epoch: Callable[[int], Plan] | None = None,
) -> Job:
    """Open the data, join the other ranks, build the student. Raises InputError naming a stage that has not run.

    A benchmark trains the arm's data by a ``recipe``, into a ``directory`` and by plans of its own.
    """
    recipe = recipe or run.recipe.for_arm(arm)
    settings, kinds = recipe.train, recipe.span_kinds()
    if not settings.trains:
        raise InputError(f"{arm}: its student is not trained (train: none); `tracestill evaluate` takes it")
    check_installed(settings.monitor)
    config, inputs = run.train_stage(arm)
    who = identity("train", config, inputs)
    about = read_manifest(inputs["encode"]) or {}
    store = TokenStore(inputs["encode"] / "tokens.arrow", kinds)
    world = connect(settings)
    placement = find_placement() if settings.local_checkpoints else None
    ids = {f"{name}_id": about["special_ids"][name] for name in ("bos", "eos", "pad")}
    vocabulary = {"vocab_size": about["vocab_size"], "num_kinds": len(kinds), **ids}
    known = (read_manifest(inputs["tokenizer"]) or {}).get("known_tokens", about["vocab_size"])
    weighting = make_weighting(recipe.weighting, kinds, recipe.seed)
    plans = plan_of_epoch or (lambda epoch: load_plan(inputs["plan"] / f"epoch-{epoch:03d}"))
    steps = settings.steps or plans(0).n_steps * (settings.epochs or 1)
    allowed = recipe.weighting.allow_unstoppable
    check_stops(weighting, kinds, store, steps, token_names(inputs["tokenizer"]), allowed=allowed)
    student = build_student(
        recipe.student,
        **vocabulary,
        known_tokens=known,
        seed=recipe.seed,
        device=world.device,
        dtype=training_dtype(settings, world.device),
        chunk_rows=settings.chunk_rows,
    )
    check_tokenizer(inputs["tokenizer"], student.model.config, recipe.encode)
    use_weighting(
        student,
        weighting,
        multiplied=multiplied_kinds(recipe.weighting, kinds),
        vocabulary=vocabulary,
        device=world.device,
        dtype=training_dtype(settings, world.device),
        attention=recipe.student.attention,
        chunk_rows=settings.chunk_rows,
        trusted=recipe.student.trust_remote_code,
    )
    new = about["vocab_size"] - known if recipe.student.pretrained else 0
    notes = adapt(student, recipe.student, seed=recipe.seed, device=world.device, new_tokens=new)
    if settings.tiled_mlp:
        tile_mlps(student.model, settings.tiled_mlp, -(-recipe.plan.capacity // settings.sequence_parallel))
    layout = layout_for(student.model.config, store, plans(0))
    batches = Batches(
        store,
        plans,
        weighting,
        normaliser=recipe.weighting.normaliser,
        rank=world.grid.data_rank,
        ranks=world.grid.data_ranks,
        group=world.grid.data_group,
        part=world.grid.part,
        parts=world.grid.parts,
        pad_id=about["special_ids"]["pad"],
        device=world.device,
        make_row=layout.make_row,
    )
    directory = directory or run.stage(arm, "train")
    engine = Engine(
        student,
        settings,
        accumulation=batches.accumulation,
        raw_deepspeed=recipe.deepspeed,
        seed=recipe.seed,
        directory=directory,
    )
    engine.base = base_of(config)
    held_out = open_held_out(
        settings, inputs["encode"], kinds, recipe.plan.capacity, about["special_ids"]["pad"], layout.make_row
    )
    tokenizer = inputs["tokenizer"]
    answers = None
    if settings.held_out_questions:
        questions = run.stage(arm, "sample") / "questions.parquet"
        answers = HeldOutAnswers(recipe, questions, directory / "asked", placement.ranks[0] if placement else None)
    console = Terminal(quiet=world.rank != 0)
    console.print(
        f"{world.ranks} rank(s) on {world.device.type}, {settings.sequence_parallel} to a row, {world.dtype}, "
        f"ZeRO {settings.zero}, "
        f"accumulation {batches.accumulation}, {steps} steps; attention {student.attention.backend}: "
        f"{student.attention.reason}{layout.about}",
        highlight=False,
    )
    if notes:
        console.print(f"student: {'; '.join(notes)}", highlight=False)
    progress = Progress(best=Best(settings.metric, settings.patience, kinds) if settings.metric else None)
    how: dict[str, Any] = {"keep": settings.keep, "background": settings.async_save, "placement": placement}
    how["interval"] = seconds_of(settings.checkpoint_interval) if settings.checkpoint_interval else None
    return Job(
        *(run, arm, recipe, who, directory, tokenizer, store, weighting, batches, held_out, answers, engine),
        *(steps, console),
        *(progress, Saver(directory / CHECKPOINTS, **how)),
        placement,
    )


def base_of(config: dict[str, Any]) -> str | None:
    """What identifies the model that frozen parameters come from: a digest of its config and weights. None if they
    come from nowhere else, so that a checkpoint has to hold them."""
    files = config.get(CONTENTS, {}).get(BASE, {})
    weights = {n: digest for n, digest in files.items() if n == "config.json" or n.endswith(WEIGHTS)}
    return digest_of(weights) if weights else None


def open_held_out(
    settings: TrainConfig, encode: Path, kinds: Kinds, capacity: int, pad_id: int, make_row: RowMaker = row_of
) -> HeldOut | None:
    """What is measured while training, or None. Raises InputError if a metric is to choose without validation."""
    found = choose_store(encode)
    by_documents = settings.metric and not settings.metric.startswith(GENERATION)
    if by_documents and (found is None or found[0] != "validation"):
        raise InputError(
            f"{encode}: holds no validation documents, by which train.metric: {settings.metric} would choose; set "
            "questions.validation, or loosen `select`"
        )
    if not settings.held_out_every or found is None:
        return None
    split, path = found
    documents = settings.held_out_documents
    more = {"capacity": capacity, "documents": documents, "pad_id": pad_id, "make_row": make_row}
    return HeldOut(TokenStore(path, kinds), kinds, split=split, **more)  # type: ignore[arg-type]


def open_directory(job: Job, resume: Resume | None) -> None:
    """Make the training's directory ready, and put the job where its newest whole checkpoint was.

    ``auto`` begins anew if there is none of this training, ``must`` refuses to. Raises InputError if unfinished
    training is there and ``resume`` is None, or if it must be resumed and cannot be, or if hosts that share no file
    system hold checkpoints of it, and none of them together.
    """
    found = newest(job)
    if resume == "must" and found is None:
        raise InputError(f"{job.directory}: no committed checkpoint to resume from; train with --resume auto")
    if found is not None:
        held = json.loads((found / STATE).read_text(encoding="utf-8"))
        ours = same(held["identity"], job.identity)
        if resume == "must" and not ours:
            raise InputError(f"{job.directory}: its checkpoints are of another recipe or other data; delete it first")
        if resume and ours:
            state = job.load(found)
            tell_other_ranks(job, held)
            job.progress.restore(state)
            forget_later(job)
            restore(job.weighting, state.get("weighting", {}))
            if job.engine.rank == 0:
                stopping.clear(job.directory, stopping.MARKER)
            job.console.print(f"resuming from step {job.progress.step} of {job.steps}", highlight=False)
            return
        if ours and share_json(read_manifest(job.directory) is None):
            raise InputError(f"{job.directory}: holds unfinished training; pass --resume auto to go on, or delete it")
    dist.barrier()  # every rank has looked

    def begin() -> None:
        if leads(job):
            empty(job.directory)

    together(begin, f"{job.directory}: cannot begin anew")


def tell_other_ranks(job: Job, state: dict[str, Any]) -> None:
    """Say so if a checkpoint, of which this is state.json, was made by other ranks or threads than go on from it: then
    no longer bit for bit."""
    before, now = (state["ranks"], state.get("threads")), (job.engine.ranks, threads_of(job.engine))
    if before[0] != now[0] or (before[1] is not None and before[1] != now[1]):
        was, becomes = (f"{r} rank(s)" + (f" of {t} thread(s)" if t else "") for r, t in (before, now))
        job.console.print(
            f"the checkpoint was made by {was}, and {becomes} go on: the same documents in the same steps, but losses "
            "may differ by rounding",
            highlight=False,
            soft_wrap=True,
        )


def threads_of(engine: Engine) -> int | None:
    """Threads of each rank on a CPU, which decide how sums are rounded; None on a GPU."""
    return torch.get_num_threads() if engine.device.type == "cpu" else None


def forget_later(job: Job) -> None:
    """Checkpoints of steps that are still to come were passed over; they go. Called on every rank."""

    def act() -> None:
        if leads(job):
            checkpoint.pass_over(job.checkpoints, job.progress.step)

    together(act, f"{job.checkpoints}: cannot move away checkpoints that were passed over")


def leads(job: Job) -> bool:
    """Whether this rank is the first of those that share the train directory."""
    return job.engine.rank == (job.placement.first if job.placement else 0)


def newest(job: Job) -> Path | None:
    """The newest whole checkpoint, of this training or another. Raises InputError as ``open_directory``."""
    if job.placement is not None:
        checkpoint_local.refuse_shared(job.directory, job.placement)
        return checkpoint_local.latest(job.checkpoints, job.placement, job.identity)
    found = checkpoint.latest(job.checkpoints)
    checkpoint_local.refuse_parts(job.checkpoints, found, job.identity)
    return found
