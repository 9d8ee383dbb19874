"""Where a training begins: anew in an emptied directory, or where its newest whole checkpoint was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest, same
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint import local as checkpoint_local
from tracestill.trainer.checkpoint.files import STATE
from tracestill.trainer.checkpoint.train_place import empty
from tracestill.trainer.faults import stopping
from tracestill.trainer.ranks.collectives import share_json, together

Resume = Literal["auto", "must"]


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
            go_on(job, found, held)
            return
        if ours and share_json(read_manifest(job.directory) is None):
            raise InputError(f"{job.directory}: holds unfinished training; pass --resume auto to go on, or delete it")
    dist.barrier()  # every rank has looked
    together(lambda: empty(job.directory) if job.leads else None, f"{job.directory}: cannot begin anew")


def newest(job: Job) -> Path | None:
    """The newest whole checkpoint, of this training or another. Raises InputError as ``open_directory``."""
    if job.placement is not None:
        checkpoint_local.refuse_shared(job.directory, job.placement)
        return checkpoint_local.latest(job.checkpoints, job.placement, job.identity)
    found = checkpoint.latest(job.checkpoints)
    checkpoint_local.refuse_parts(job.checkpoints, found, job.identity)
    return found


def go_on(job: Job, found: Path, held: dict[str, Any]) -> None:
    """Put the job into the state of a checkpoint, of which ``held`` is the state.json."""
    state = job.load(found)
    tell_other_ranks(job, held)
    job.progress.restore(state)
    forget_later(job)
    job.weighting.load_state(state.get("weighting", {}))
    if job.own_texts is not None:
        job.own_texts.load_state(state.get("on_policy", {}))
    if job.engine.rank == 0:
        stopping.clear(job.directory, stopping.MARKER)
    job.console.print(f"resuming from step {job.progress.step} of {job.steps}", highlight=False)


def tell_other_ranks(job: Job, state: dict[str, Any]) -> None:
    """Say so if a checkpoint, of which this is state.json, was made by other ranks or threads than go on from it: then
    no longer bit for bit."""
    before, now = (state["ranks"], state.get("threads")), (job.engine.ranks, job.threads)
    if before[0] != now[0] or (before[1] is not None and before[1] != now[1]):
        was, becomes = (f"{r} rank(s)" + (f" of {t} thread(s)" if t else "") for r, t in (before, now))
        job.console.print(
            f"the checkpoint was made by {was}, and {becomes} go on: the same documents in the same steps, but losses "
            "may differ by rounding",
            highlight=False,
            soft_wrap=True,
        )


def forget_later(job: Job) -> None:
    """Checkpoints of steps that are still to come were passed over; they go. Called on every rank."""

    def act() -> None:
        if job.leads:
            checkpoint.pass_over(job.checkpoints, job.progress.step)

    together(act, f"{job.checkpoints}: cannot move away checkpoints that were passed over")
