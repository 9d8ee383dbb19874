"""Which of the ranks this process is, where no launcher of DeepSpeed's or torch's has said so: mpirun and srun.

Nothing here imports mpi4py. Only ranks that mpirun started on several hosts need it, to agree on where they meet.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import socket
from collections.abc import Mapping, MutableMapping

from tracestill.data_pipeline.base.errors import InputError

PORT = "29500"  # DeepSpeed's and torch's default
LAUNCH = "TRACESTILL_LAUNCH"  # in the environment of every process of a launch: its mark, which no other one knows
OWNER = "TRACESTILL_OWNER"  # in the environment of all that the owner of a run's lock starts: the lock's token
TOLD = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")  # by a launcher such as torchrun; together or not at all
LOOPBACKS = ("lo", "lo0")  # names of the interface
SOURCES = (  # rank, ranks, rank on this host, ranks on this host
    (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE"),  # only srun sets all
)


def started_by(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """The variables by which mpirun or srun tells this process its rank; None if neither started it."""
    return next((names for names in SOURCES if all(name in environment for name in names)), None)


def is_first(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is the first of those that were started together, or alone."""
    names = started_by(environment)
    return environment.get("RANK", environment[names[0]] if names else "0") == "0"


def is_owned(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a command that holds a run's lock started this process; people start ranks by hand, too."""
    return OWNER in environment


def join(environment: MutableMapping[str, str] = os.environ) -> None:
    """Say rank, ranks and meeting point in torch's variables, whoever started this process.

    A process that nobody launched becomes a world of one. Ranks of one host talk over its loopback interface and no
    other, unless the user has named one. Raises InputError if the ranks cannot know where they meet.
    """
    find_rendezvous(environment)
    if "MASTER_ADDR" in environment and is_alone(environment):
        environment.update({k: v for k, v in loopback_only().items() if k not in environment})


def loopback_only() -> dict[str, str]:
    """Variables by which gloo and NCCL listen on the loopback interface and on no other."""
    names = [name for _, name in socket.if_nameindex() if name in LOOPBACKS]
    return {"GLOO_SOCKET_IFNAME": names[0], "NCCL_SOCKET_IFNAME": names[0]} if names else {}


def is_loopback(address: str) -> bool:
    """Whether an address, or the name localhost, is this host's own and nobody else's."""
    try:
        return address == "localhost" or ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:  # a name
        return False


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether all ranks run on this host, as the address at which they meet or whoever started them says."""
    names = started_by(environment)
    of_launcher = environment.get("LOCAL_SIZE", environment.get("LOCAL_WORLD_SIZE"))  # DeepSpeed's, torchrun
    on_host = environment[names[3]] if names and of_launcher is None else of_launcher
    return on_host == environment["WORLD_SIZE"] or is_loopback(environment["MASTER_ADDR"])


def find_rendezvous(environment: MutableMapping[str, str]) -> None:
    missing = [name for name in TOLD if name not in environment]
    if not missing:
        for name in TOLD:
            if name != "MASTER_ADDR" and not environment[name].isdecimal():
                raise InputError(f"{name}={environment[name]}: expected a whole number")
        return
    names = started_by(environment)
    if names is None and "RANK" in environment:
        raise InputError(
            f"{', '.join(missing)}: RANK is set, so a launcher is expected to set this too; unset RANK to be alone"
        )
    if names is None:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        environment.update(alone, MASTER_PORT=str(free_port()))
        return
    rank, ranks, local, on_host = (environment[name] for name in names)
    if "MASTER_ADDR" not in environment:
        if on_host == ranks:  # one host: over its loopback interface, where nobody else can listen
            environment["MASTER_ADDR"] = "127.0.0.1"
        elif names == SOURCES[0] and importlib.util.find_spec("mpi4py") is not None:
            return  # DeepSpeed asks MPI
        else:
            raise InputError(
                "MASTER_ADDR: ranks on several hosts do not know where they meet; export MASTER_ADDR (the first host's "
                "address) and MASTER_PORT to all of them, or under Open MPI install mpi4py"
            )
    environment.setdefault("MASTER_PORT", PORT)
    environment.update(RANK=rank, WORLD_SIZE=ranks, LOCAL_RANK=local)


def free_port(address: str = "127.0.0.1") -> int:
    """A port of this host's ``address`` that nobody listens on."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.bind((address, 0))
        return int(listener.getsockname()[1])
