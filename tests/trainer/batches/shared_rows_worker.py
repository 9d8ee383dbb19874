"""Two ranks: one whole training that shares rows at first and goes on without, and one that never shares them.

shared_rows_worker.py DIRECTORY    with a prepared run in each of shared and apart; rank 0 writes found.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import Resume, open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults import stopping
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import finish, train

STOP = 3  # steps


def start(root: Path, resume: Resume | None) -> Job:
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, resume)
    return job


def go(job: Job) -> bool:
    with (
        stopping.StopRequest(job.directory, seconds=None, started=time.perf_counter(), rank=job.engine.rank) as stop,
        job.saver,
    ):
        complete = train(job, stop)
    if complete:
        finish(job, 1.0)
    job.engine.close()
    dist.barrier()
    return complete


def stop_at(job: Job, step: int) -> None:
    """Let rank 0 find that it is to stop, after ``step`` steps."""
    plain = job.batches.step

    def make(wanted: int) -> Any:
        if wanted == step and job.engine.rank == 0:
            stopping.request(job.directory, "")
        return plain(wanted)

    job.batches.step = make  # type: ignore[method-assign]


def main() -> None:
    directory = Path(sys.argv[-1])
    apart = start(directory / "apart", None)
    show_first_step(apart)
    found: dict[str, Any] = {"apart": go(apart)}
    shared = start(directory / "shared", None)
    show_first_step(shared)
    found["rows"] = [len(micro.packed.labels) for micro in shared.batches.step(0).micro]
    found["mesh"] = [shared.engine.mesh.parts, shared.engine.mesh.data_ranks, shared.batches.accumulation]
    stop_at(shared, STOP)
    found["shared"] = go(shared)
    if dist.get_rank() == 0:
        stopping.clear(directory / "shared/arms/traces/train", stopping.REQUEST)
        path = directory / "shared/recipe.yaml"
        path.write_text(path.read_text().replace("sequence_parallel: 2", "sequence_parallel: 1"))
    dist.barrier()
    again = start(directory / "shared", "must")
    found["resumed_at"] = again.progress.step
    found["after"] = [again.engine.mesh.parts, go(again)]
    if dist.get_rank() == 0:
        (directory / "found.json").write_text(json.dumps(found))


main()
leave(0)
