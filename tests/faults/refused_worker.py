"""Two ranks, and a kernel that refuses a call that one of them makes while it saves (traced_save.py).

refused_worker.py main RUN RANK CALL NTH ERROR STEP    a whole training; the save is that after STEP
refused_worker.py sweep DIRECTORY    a prepared run in refused and in undisturbed: every call of a save in turn, with
                                     each error, in one training that goes on from what is there; writes found.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch.distributed as dist
from traced_save import Place, Tracer, places, refusals

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer import train
from tracestill.trainer.assembly.prepare import prepare
from tracestill.trainer.assembly.resume import open_directory
from tracestill.trainer.checkpoint.files import committed, damaged, path_of
from tracestill.trainer.engine.engine import leave
from tracestill.trainer.faults.stopping import StopRequest
from tracestill.trainer.recipe.run_directory import RunDirectory

ERRORS = ("ENOSPC", "EIO")
PRUNES = 6  # the first step after which a save deletes an older one
AHEAD = 4  # steps from where training goes on to the save that fails: one is made in between


def go(root: Path, tracer: Tracer, place: Place | None = None, error: str = "") -> dict[str, Any]:
    """Go on with a training, to its end or until the call at ``place`` is refused."""
    job = prepare(RunDirectory.open(root), "traces")
    open_directory(job, "auto")
    begun, code, said = job.progress.step, 0, ""
    step = max(begun + AHEAD, PRUNES)
    tracer.trace(step, place or (-1, "", 0), error)
    try:
        with StopRequest(job.directory, seconds=None, started=0.0, rank=job.engine.rank) as stop, job.saver:
            train.train(job, stop)
    except InputError as failure:
        code, said = failure.exit_code, str(failure)
    job.engine.close()
    tracer.wait()
    dist.barrier()
    left = [path.name for path in job.checkpoints.glob("tmp-*")]
    whole = not damaged(path_of(job.checkpoints, step - 2))
    found = {"begun": begun, "step": step, "code": code, "said": said, "left": left, "older is whole": whole}
    found["newest"] = committed(job.checkpoints)[-1].name
    if place:
        found |= {"place": place, "error": error, "refused": refusals(tracer.folder, place.rank)}
    dist.barrier()  # every rank has looked
    return found


def sweep(directory: Path) -> None:
    tracer = Tracer(directory)
    go(directory / "undisturbed", tracer)
    all_places = [*places(directory, 0), *places(directory, 1)]
    found = [go(directory / "refused", tracer, place, error) for place in all_places for error in ERRORS]
    found.append(go(directory / "refused", tracer))
    if dist.get_rank() == 0:
        (directory / "found.json").write_text(json.dumps(found))


def main(root: str, rank: str, call: str, nth: str, error: str, step: str) -> int:
    tracer = Tracer(Path(root))
    tracer.trace(int(step), Place(int(rank), call, int(nth)), error)
    return train.main(["--run-dir", root, "--resume", "auto"])


if __name__ == "__main__":
    if sys.argv[-2] == "sweep":
        sweep(Path(sys.argv[-1]))
        leave(0)
    leave(main(*sys.argv[-6:]))
