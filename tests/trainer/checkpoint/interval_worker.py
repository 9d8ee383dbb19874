"""Two ranks: a training that saves when rank 0's clock says so, another that saves at its end only.

interval_worker.py DIRECTORY    with a prepared run in timed and plain; rank 0 writes found.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.checkpoint.files import committed
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.metrics.headway import read_headway
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import train


def go(root: Path, *, timed: bool) -> dict[str, object]:
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, None)
    job.saver.background = False
    interval = job.saver.interval
    job.saver.interval = (0.0 if job.engine.rank == 0 else 1e9) if timed else interval  # no two clocks are alike
    with StopRequest(job.directory, seconds=None, started=0.0, rank=job.engine.rank) as stop, job.saver:
        assert train(job, stop)
    job.engine.close()
    dist.barrier()
    now = read_headway(job.directory)
    assert now is not None
    return {
        "interval": interval,
        "saved": [path.name for path in committed(job.checkpoints)],
        "progress": [now.step, now.steps, now.saved, now.tokens == now.total],
    }


def main() -> None:
    directory = Path(sys.argv[-1])
    found = {name: go(directory / name, timed=name == "timed") for name in ("timed", "plain")}
    if dist.get_rank() == 0:
        (directory / "found.json").write_text(json.dumps(found))


main()
leave(0)
