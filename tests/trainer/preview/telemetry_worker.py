"""Shows the first step and trains a few, as the trainer's main does, on a student that ZeRO-3 has cut up."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import torch.distributed as dist

from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import train


def train_in(root: Path) -> None:
    run = RunDirectory.open(root)
    job = prepare(run, "traces")
    open_directory(job, None)
    head = job.engine.module.head[0]
    cut = [head.weight.numel()]
    show_first_step(job)
    cut.append(head.weight.numel())
    with StopRequest(job.directory, seconds=None, started=0.0, rank=job.engine.rank) as stop:
        train(job, stop)
    assert head.gradient_norms is None
    memory = [0.0] * dist.get_world_size()
    dist.all_gather_object(memory, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20)  # GiB
    if dist.get_rank() == 0:
        (root / "found.json").write_text(json.dumps({"cut": cut, "memory": memory}))
    job.engine.close()
    dist.barrier()


for argument in sys.argv[-2:]:
    train_in(Path(argument))
leave(0)
