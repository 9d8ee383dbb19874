"""`mpirun -n 2 tracestill train RUN`: each process that mpirun or srun starts is one of the ranks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.ranks.join_ranks import started_by
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.run_directory import RunDirectory, differing


def is_rank(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is one of several that mpirun or srun started together."""
    names = started_by(environment)
    return names is not None and int(environment[names[1]]) > 1


def train_mpi_rank(root: Path, wanted: Recipe, arm: str | None, resume: str) -> NoReturn:
    """Join the other ranks and train one arm of a run whose data stages have run; ends the process.

    Raises InputError if there is no such run, if it holds another recipe, or if the arm is not clear.
    """
    held = RunDirectory.open(root).recipe
    fields = differing(held.model_dump(mode="json"), wanted.model_dump(mode="json"))
    if fields:
        raise InputError(
            f"{root}: holds another recipe (differs in {', '.join(fields)}); ranks that mpirun starts change no run: "
            "begin it with `tracestill run RECIPE --until plan`"
        )
    arms = [name for name in wanted.arm_names() if wanted.for_arm(name).train.trains] or wanted.arm_names()
    if arm is None and len(arms) > 1:
        raise InputError(f"--arm: ranks that mpirun starts train one student; choose one of {', '.join(arms)}")
    from tracestill.trainer import train
    from tracestill.trainer.engine.engine import leave

    leave(train.main(["--run-dir", str(root), "--arm", arm or arms[0], "--resume", resume]))
