import builtins
import socket

import pytest

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.ranks import join_ranks

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
SRUN = {
    "SLURM_PROCID": "3",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
MEET = {"MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "4321"}


def joined(**environment):
    join_ranks.join(environment)
    return {key: environment.get(key) for key in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({**OPEN_MPI, **MEET}, ("1", "2", "1", "10.0.0.1", "4321")),
        ({**HYDRA, **MEET}, ("3", "4", "1", "10.0.0.1", "4321")),
        ({**SRUN, **MEET}, ("3", "4", "1", "10.0.0.1", "4321")),
        # mpirun reaches a host through srun there: its own numbers count
        ({**SRUN, "SLURM_PROCID": "1", **OPEN_MPI, **MEET}, ("1", "2", "1", "10.0.0.1", "4321")),
        (OPEN_MPI, ("1", "2", "1", "127.0.0.1", "29500")),
        ({**OPEN_MPI, "MASTER_PORT": "77"}, ("1", "2", "1", "127.0.0.1", "77")),
        # what DeepSpeed's launcher or torchrun has said stays
        ({**OPEN_MPI, **MEET, "RANK": "0", "WORLD_SIZE": "9", "LOCAL_RANK": "0"}, ("0", "9", "0", "10.0.0.1", "4321")),
    ],
)
def test_ranks_are_read_from_whoever_started_them(environment, expected):
    assert tuple(joined(**environment).values()) == expected


TOLD = {**MEET, "RANK": "1", "WORLD_SIZE": "2"}


@pytest.mark.parametrize("missing", ["WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"])
def test_a_variable_of_a_launcher_that_is_missing_is_named(missing):
    left = {name: value for name, value in TOLD.items() if name != missing}
    with pytest.raises(InputError, match=rf"^{missing}: RANK is set"):
        join_ranks.join(left)
    with pytest.raises(InputError, match=f"^{missing}=x: expected" if missing != "MASTER_ADDR" else "^RANK=: expected"):
        join_ranks.join({**TOLD, missing: "x"} if missing != "MASTER_ADDR" else {**TOLD, "RANK": ""})


def test_who_started_the_ranks_knows_what_a_stray_variable_lacks(monkeypatch):
    assert tuple(joined(**OPEN_MPI, RANK="7").values()) == ("1", "2", "1", "127.0.0.1", "29500")
    monkeypatch.setattr(join_ranks.importlib.util, "find_spec", lambda name: object())
    several = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1", "RANK": "1", "WORLD_SIZE": "2"}
    assert joined(**several)["MASTER_ADDR"] is None, "left to DeepSpeed, which asks MPI"


def test_one_host_talks_over_its_loopback_interface(monkeypatch):
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "lo"), (2, "eth0")])
    environment = dict(OPEN_MPI)
    join_ranks.join(environment)
    assert environment["GLOO_SOCKET_IFNAME"] == environment["NCCL_SOCKET_IFNAME"] == "lo"
    environment = {**OPEN_MPI, **MEET}
    join_ranks.join(environment)
    assert environment["GLOO_SOCKET_IFNAME"] == "lo", "wherever they meet"
    environment = {**OPEN_MPI, **MEET, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    join_ranks.join(environment)
    assert "GLOO_SOCKET_IFNAME" not in environment
    environment = {**OPEN_MPI, "GLOO_SOCKET_IFNAME": "eth0"}
    join_ranks.join(environment)
    assert environment["GLOO_SOCKET_IFNAME"] == "eth0"


def test_nobody_started_it():
    # within an allocation, but not by srun
    found = joined(SLURM_PROCID="0", SLURM_NTASKS="8", SLURM_LOCALID="0")
    assert (found["RANK"], found["WORLD_SIZE"], found["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")
    assert int(found["MASTER_PORT"]) > 1023


@pytest.mark.parametrize("started", [HYDRA, SRUN])
def test_ranks_that_cannot_know_where_they_meet(started):
    with pytest.raises(InputError, match="export MASTER_ADDR"):
        join_ranks.join(dict(started))


def test_mpi_on_several_hosts_needs_mpi4py_or_an_address(monkeypatch):
    several = {**OPEN_MPI, "OMPI_COMM_WORLD_LOCAL_SIZE": "1"}
    monkeypatch.setattr(join_ranks.importlib.util, "find_spec", lambda name: object())
    environment = dict(several)
    join_ranks.join(environment)
    assert environment == several, "left to DeepSpeed, which asks MPI"
    monkeypatch.setattr(join_ranks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="install mpi4py"):
        join_ranks.join(dict(several))


def test_nothing_imports_mpi4py(monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **more):
        assert not name.startswith("mpi4py")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    assert joined(**OPEN_MPI)["RANK"] == "1"
    assert joined()["RANK"] == "0"
