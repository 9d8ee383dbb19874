"""How a training ends: its student becomes a directory of Hugging Face's, and a manifest says that it is done."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import Stage, read_manifest, write_manifest
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.checkpoint.files import remove_all
from tracestill.trainer.checkpoint.train_place import EXPORT
from tracestill.trainer.engine.whole import whole_parameters
from tracestill.trainer.export.adapted import export_trained, spool_trained
from tracestill.trainer.metrics.log import LOG
from tracestill.trainer.ranks.collectives import together
from tracestill.trainer.recipe.recipe import dump_recipe


def export_student(job: Job, folder: Path) -> None:
    """Write the student, or its average if the recipe asks for one, as a Hugging Face directory."""
    model, config = job.engine.module.model, job.recipe.student
    with job.engine.averaged():
        spool = spool_trained(model, config, partial(whole_parameters, job.engine), folder)

    def write() -> None:
        if job.engine.rank == 0:
            about = read_manifest(job.run.stage(job.arm, "encode")) or {}
            export_trained(
                model,
                config,
                spool.tensors(),
                job.tokenizer,
                folder,
                title=f"{job.recipe.name}, arm {job.arm}",
                recipe=dump_recipe(job.recipe),
                counts=about.get("counts", {}),
                encode=job.recipe.encode,
            )

    together(write, f"{folder}: cannot export the student")


def finish(job: Job, seconds: float) -> None:
    """Export the student, then write the manifest that says that training is done.

    Raises InputError if the best checkpoint is to be exported and is damaged.
    """
    counts = {"steps": job.progress.step, "ranks": job.engine.ranks, "exported_step": job.progress.step}
    best = job.progress.best
    if job.recipe.train.export == "best" and best is not None and best.step is not None:
        path = checkpoint.path_of(job.checkpoints, best.step)
        if not checkpoint.whole(path):
            raise InputError(f"{path}: the best checkpoint is damaged or missing; set train.export: last")
        job.load(path)
        counts["exported_step"] = best.step
    export_student(job, job.directory / EXPORT)
    if job.engine.rank == 0:
        extra: dict[str, Any] = {"best": best.state()} if best else {}
        extra |= {"on_policy": job.own_texts.summary()} if job.own_texts else {}
        work = Stage(job.directory, counts=counts, extra=extra)
        write_manifest(job.directory, job.identity, work, seconds, (f"{EXPORT}/**/*", LOG, "preview.*"))
    dist.barrier()
    if job.recipe.train.keep == 0 and job.leads:
        with contextlib.suppress(OSError):  # the command line deletes what is left
            remove_all(job.checkpoints)
