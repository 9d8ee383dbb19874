"""Ranks of mpirun as workers of `encode`, with a stand-in for mpi4py (the real one: tests/cluster)."""

import contextlib
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.workers import PARALLEL, hired
from tracestill.launch.start.mpi_encode import by_ranks


@pytest.fixture
def mpi(monkeypatch):
    """Makes this process one of three ranks, as mpi4py sees them."""

    def started(rank, size=3):
        @contextlib.contextmanager
        def executor(world, root):
            with ThreadPoolExecutor(1) as pool:
                yield pool if rank == root else None

        top, futures = ModuleType("mpi4py"), ModuleType("mpi4py.futures")
        top.MPI = ModuleType("mpi4py.MPI")
        top.MPI.COMM_WORLD = type("World", (), {"Get_size": lambda self: size})()
        futures.MPICommExecutor = executor
        for module in (top, futures):
            monkeypatch.setitem(sys.modules, module.__name__, module)

    for name, value in (("RANK", "0"), ("SIZE", "3"), ("LOCAL_RANK", "0"), ("LOCAL_SIZE", "3")):
        monkeypatch.setenv(f"OMPI_COMM_WORLD_{name}", value)
    monkeypatch.setenv(PARALLEL, "true")
    return started


def test_the_first_rank_works_by_the_others(mpi):
    found = []

    def work():
        with hired(1) as workers:
            found.append((workers.count, workers.local, type(workers.pool)))

    mpi(0)
    by_ranks(work)
    assert found == [(2, False, ThreadPoolExecutor)]
    mpi(1)
    by_ranks(work)
    assert len(found) == 1
    assert os.environ[PARALLEL] == "false"
    with hired(1) as workers:
        assert workers.local


def test_ranks_of_another_mpi_are_refused(mpi):
    mpi(0, size=1)
    with pytest.raises(InputError, match="mpirun started 3 ranks, and mpi4py sees 1 of them"):
        by_ranks(lambda: pytest.fail("it must not work"))


def test_ranks_need_mpi4py(mpi, monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    with pytest.raises(InputError, match=r"3 ranks, which need mpi4py .*pip install 'tracestill\[mpi\]'"):
        by_ranks(lambda: pytest.fail("it must not work"))
