"""A training inside of a rank, to its end or until it is asked to stop, and what the rank does after it."""

from __future__ import annotations

import time

import torch.distributed as dist

from tracestill.trainer.assembly.job import Job
from tracestill.trainer.faults import stopping
from tracestill.trainer.train import finish, train


def train_until(job: Job, stop_at: int | None) -> None:
    """Train a job that is ready, until so many steps are done (None: all, and then finish), and close it. Called on
    every rank."""
    plain = job.engine.forward

    def forward(micro):
        if stop_at is not None and job.progress.step == stop_at - 1 and job.engine.rank == 0:
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
