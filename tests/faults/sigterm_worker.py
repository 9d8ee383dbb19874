"""One process: a training that gets SIGTERM in each micro-step in turn, and in the update; and one that gets none.

sigterm_worker.py DIRECTORY    with a prepared run in plain and stopped; writes found.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tracestill.trainer.assembly.job import Job
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import train


def go(root: Path, at: int | None) -> list[Any]:
    """Train on. In the first step, SIGTERM comes in micro-step ``at``, counted from 0; beyond them, in the update.

    Returns the micro-steps of a step, whether it was done to the end, steps done, and the newest checkpoint.
    """
    job: Job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, "auto")
    engine, calls = job.engine, 0
    forward, step = engine.forward, engine.step

    def count(plain: Any) -> Any:
        def call(*arguments: Any, **more: Any) -> Any:
            nonlocal calls
            if calls == at:
                os.kill(os.getpid(), signal.SIGTERM)
            calls += 1
            return plain(*arguments, **more)

        return call

    engine.forward, engine.step = count(forward), count(step)  # type: ignore[method-assign]
    with StopRequest(job.directory, seconds=None, started=time.perf_counter(), rank=0) as stop, job.saver:
        complete = train(job, stop)
    found = checkpoint.latest(job.checkpoints)
    engine.close()
    return [engine.accumulation, complete, job.progress.step, found.name if found else None]


def main() -> None:
    directory = Path(sys.argv[-1])
    stopped = [go(directory / "stopped", at) for at in (0, 1, 2, 3, 4, None)]
    (directory / "found.json").write_text(json.dumps({"stopped": stopped, "plain": go(directory / "plain", None)}))


main()
leave(0)
