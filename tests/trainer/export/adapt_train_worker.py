"""Two ranks: whole trainings of adapters and of a grown vocabulary, with what the trainer's own student computes.

adapt_train_worker.py DIRECTORY    with the prepared runs lora (arms traces, apart), grown and refused
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import Resume, open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import finish, train


def unfinish(train: Path) -> None:
    """As if the training had been killed after its last checkpoint but one; the export stays as ``first``."""
    (train / "manifest.json").unlink()
    (train / "export").rename(train.with_name(f"{train.name}-first"))
    shutil.rmtree(max((train / "checkpoints").iterdir()))


def go(root: Path, arm: str, into: Path, resume: Resume | None = None) -> None:
    job = prepare(RunDirectory.open(root), arm)
    open_directory(job, resume)
    assert (job.progress.step > 0) == (resume is not None)
    with StopRequest(job.directory, seconds=None, started=time.perf_counter(), rank=job.engine.rank) as stop:
        assert train(job, stop)
    finish(job, 1.0)
    job.engine.deepspeed.eval()
    with torch.no_grad():
        logits = job.engine.module.model(input_ids=torch.arange(20)[None], use_cache=False).logits[0]
    if job.engine.rank == 0:
        save_file({"logits": logits.contiguous()}, into)
    job.engine.close()
    dist.barrier()


def main() -> None:
    directory = Path(sys.argv[-1])
    for run, arm in (("lora", "traces"), ("lora", "apart"), ("grown", "traces")):
        go(directory / run, arm, directory / f"{run}-{arm}.safetensors")
    for arm in ("traces", "apart"):
        if dist.get_rank() == 0:
            unfinish(RunDirectory.open(directory / "lora").stage(arm, "train"))
        dist.barrier()
        go(directory / "lora", arm, directory / f"again-{arm}.safetensors", "must")
    try:
        prepare(RunDirectory.open(directory / "refused"), "traces")
    except InputError as error:
        (directory / "refused.json").write_text(json.dumps(str(error)))


main()
leave(0)
