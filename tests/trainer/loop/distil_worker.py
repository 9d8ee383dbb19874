"""Two ranks: trainings with a teacher's term, whole, and stopped and gone on with.

distil_worker.py DIRECTORY    with a prepared run in plain and stopped
"""

from __future__ import annotations

import sys
from pathlib import Path

from stopped_training import train_until

from tracestill.trainer.assembly.first_step import show_first_step
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.recipe.run_directory import RunDirectory


def go(root: Path, stop_at: int | None = None) -> None:
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, "auto")
    if job.progress.step == 0:
        show_first_step(job)
    train_until(job, stop_at)


directory = Path(sys.argv[-1])
go(directory / "plain")
go(directory / "stopped", stop_at=2)
go(directory / "stopped")
leave(0)
