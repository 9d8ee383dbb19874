"""Two ranks: whole trainings that are stopped, go on, meet what is not finite, and choose by a metric.

train_worker.py DIRECTORY    with a prepared run in plain, stopped, faulty, bare, full, chosen; rank 0 writes found.json
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.assembly.job import Job
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import Resume, open_directory
from tracestill.trainer.checkpoint import checkpoint
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults import stopping
from tracestill.trainer.ranks.phases import Phase
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.train import finish, train
from tracestill.trainer.weighting.by_token import RandomDrop

SCRIPT = {0: 9.0, 1: 5.0, 2: 4.0, 3: 4.5, 4: 3.0, 5: 3.5, 6: 3.0, 7: 3.7, 8: 1.0}  # metric after each step


def start(root: Path, resume: Resume | None) -> Job:
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, resume)
    return job


def go(job: Job, seconds: float | None = None) -> bool:
    with stopping.StopRequest(
        job.directory, seconds=seconds, started=time.perf_counter(), rank=job.engine.rank
    ) as stop:
        complete = train(job, stop)
    if complete:
        finish(job, 1.0)
    job.engine.close()
    dist.barrier()
    return complete


def during(job: Job, act: Callable[[int, Any], Any]) -> None:
    """Let ``act`` see, and change, each loss of this rank, with the steps done before it."""
    plain = job.engine.forward

    def forward(micro: Any) -> Any:
        loss, statistics = plain(micro)
        return act(job.progress.step, loss), statistics

    job.engine.forward = forward  # type: ignore[method-assign]


def scripted(job: Job) -> Job:
    assert job.held_out is not None
    job.held_out.measure = lambda engine: {  # type: ignore[method-assign]
        "answer": {"loss": SCRIPT[job.progress.step], "count": 3, "accuracy": 0.0}
    }
    return job


def uninterrupted(root: Path) -> dict[str, Any]:
    job = start(root, None)
    made, plain = [], job.batches.step

    def step(step: int) -> Any:
        made.append((job.progress.step, step))
        return plain(step)

    job.batches.step = step  # type: ignore[method-assign]
    return {"complete": go(job), "made": made}


def stop_and_go_on(root: Path) -> dict[str, Any]:
    job = start(root, "auto")

    def interrupt(step: int, loss: Any) -> Any:
        if step == 2 and job.engine.rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss

    during(job, interrupt)
    stopped, at = not go(job), job.progress.step
    marker = json.loads((job.directory / stopping.MARKER).read_text())
    dist.barrier()
    refused = ""
    try:
        start(root, None)
    except InputError as error:
        refused = str(error)
    again = start(root, "auto")
    resumed_at = again.progress.step
    cleared = not (job.directory / stopping.MARKER).exists()
    in_time = not go(again, seconds=1e-3)  # the time limit stops after one more step
    after_time = again.progress.step
    last = start(root, "must")
    complete = go(last)
    return {
        "stopped": [stopped, at],
        "marker": marker,
        "refused": refused,
        "resumed_at": resumed_at,
        "cleared": cleared,
        "in_time": [in_time, after_time],
        "complete": complete,
    }


def bare(root: Path) -> dict[str, Any]:
    job = start(root, None)
    seen, phases = [], []

    def hear(name: Phase, step: int) -> None:
        phases.append((name, step))
        if name == "data":  # the step before is over, and saved
            seen.append(len(list(job.checkpoints.glob("step-*"))))

    job.phases.subscribe(hear)
    complete = go(job)
    return {"complete": complete, "saved": max(seen), "phases": phases}


def faulty(root: Path) -> dict[str, Any]:
    job = start(root, None)
    during(job, lambda step, loss: loss * float("nan") if step in (1, 3, 4, 5) and job.engine.rank == 1 else loss)
    said = ""
    try:
        go(job)
    except InputError as error:
        said = str(error)
    job.engine.close()
    return {"said": said, "step": job.progress.step}


def keep_count() -> None:
    """From now on the weighting counts the steps that have ended."""

    def end_step(self: Any) -> None:
        self.ended = getattr(self, "ended", 0) + 1

    RandomDrop.end_step = end_step  # type: ignore[method-assign]
    RandomDrop.state = lambda self: {"ended": self.ended}  # type: ignore[method-assign]
    RandomDrop.load_state = lambda self, state: setattr(self, "ended", state["ended"])  # type: ignore[method-assign]


def chosen(root: Path) -> dict[str, Any]:
    keep_count()
    job = scripted(start(root, None))

    def ask(step: int, loss: Any) -> Any:
        if step == 4 and job.engine.rank == 0:
            stopping.request(job.directory, "")
        return loss

    during(job, ask)
    stopped = not go(job)
    dist.barrier()
    if job.engine.rank == 0:
        stopping.clear(job.directory, stopping.REQUEST)
    dist.barrier()
    again = scripted(start(root, "auto"))
    waited = again.progress.best.waited if again.progress.best else None
    complete = go(again)
    ended = again.weighting.ended  # type: ignore[attr-defined]
    return {"stopped": stopped, "waited": waited, "complete": complete, "steps": again.progress.step, "ended": ended}


def full_disk(root: Path) -> dict[str, Any]:
    """Rank 1 cannot write the checkpoint of step 4, and knows it before the step after is over."""
    job = start(root, None)
    plain = checkpoint.save_file

    def write(*arguments: Any, **more: Any) -> None:
        if job.engine.rank == 1 and more["metadata"]["step"] == "4":
            raise OSError(28, "No space left on device")
        plain(*arguments, **more)

    def wait(step: int, loss: Any) -> Any:
        if job.engine.rank == 1 and step == 4 and job.saver.thread is not None:
            job.saver.thread.join()
        return loss

    checkpoint.save_file = write
    during(job, wait)
    said = ""
    try:
        go(job)
    except InputError as error:
        said = str(error)
    checkpoint.save_file = plain
    job.engine.close()
    everywhere: list[Any] = [None] * job.engine.ranks
    dist.all_gather_object(everywhere, {"said": said, "step": job.progress.step})
    return {"ranks": everywhere}


def main() -> None:
    directory = Path(sys.argv[-1])
    found: dict[str, Any] = {"plain": uninterrupted(directory / "plain")}
    found["stopped"] = stop_and_go_on(directory / "stopped")
    found["faulty"] = faulty(directory / "faulty")
    found["bare"] = bare(directory / "bare")
    found["full"] = full_disk(directory / "full")
    found["chosen"] = chosen(directory / "chosen")
    if dist.get_rank() == 0:
        (directory / "found.json").write_text(json.dumps(found))


main()
leave(0)
