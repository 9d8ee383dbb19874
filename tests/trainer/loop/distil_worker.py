"""Two ranks: trainings with a teacher's term, whole, and stopped and gone on with.

distil_worker.py DIRECTORY    with a prepared run in plain and stopped
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch.distributed as dist

from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults import stopping
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import finish, train


def go(root: Path, stop_at: int | None = None) -> None:
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, "auto")
    if job.progress.step == 0:
        show_first_step(job)
    plain = job.engine.forward

    def forward(micro):
        if job.progress.step == stop_at and job.engine.rank == 0:
            stopping.request(job.directory, "")
        return plain(micro)

    job.engine.forward = forward  # type: ignore[method-assign]
    request = stopping.StopRequest(job.directory, seconds=None, started=time.perf_counter(), rank=job.engine.rank)
    with request as stop, job.saver:
        complete = train(job, stop)
    assert complete == (stop_at is None)
    if complete:
        finish(job, 1.0)
    job.engine.close()
    dist.barrier()
    if job.engine.rank == 0:
        stopping.clear(job.directory, stopping.REQUEST)
    dist.barrier()


directory = Path(sys.argv[-1])
go(directory / "plain")
go(directory / "stopped", stop_at=1)
go(directory / "stopped")
leave(0)
