"""What starts ranks on other hosts: a record each, and the one place that knows their names.

DeepSpeed's launcher drives those that are built in. One of your own is a ``Launcher`` with a ``command``, named as
``--launcher my_pkg.my_module:LAUNCHER``.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.trainer.ranks.cores import OF_TASK

if TYPE_CHECKING:
    from tracestill.launch.hosts.cluster import Cluster, Rendezvous

OF_STEP = "SRUN_CPUS_PER_TASK"
PLAIN = re.compile(r"[\w@%+=:,./-]*", re.ASCII)  # what DeepSpeed's launcher leaves unquoted


@dataclass(frozen=True)
class Order:
    """What a launcher is to start: ``module``, the command of one rank, on every host as often as it has slots."""

    cluster: Cluster
    rendezvous: Rendezvous
    variables: Mapping[str, str]  # of the ranks; the launcher's own process has them too
    module: Sequence[str]
    folder: Path  # for files of the launcher's: ``hosts`` and ``environment`` are there


@dataclass(frozen=True)
class Launcher:
    """Everything that is known of one launcher."""

    name: str
    program: str  # without which it does not run on this host
    needs: str = ""  # the same for people; as the next two, in docs/multi-node.md
    tested: str = ""  # the version
    reaches: str = ""  # how it comes to the hosts
    safe: re.Pattern[str] = PLAIN  # what a variable or an argument may hold to arrive as it is
    chooses_devices: bool = False  # else a host's slots are all that it has
    uneven: bool = False  # hosts may have different numbers of slots
    says_where: bool = True  # it tells ranks where they meet
    starts_files: bool = False  # DeepSpeed 0.19.8 loses or misplaces ``-m`` for it
    options: Callable[[Cluster, Rendezvous], str] = lambda cluster, rendezvous: ""  # DeepSpeed's ``--launcher_args``
    environment: Callable[[dict[str, str]], dict[str, str]] = lambda own: own  # its own, on this host
    threads: Callable[[], int] | None = None  # of a rank on CPUs, where it binds ranks to cores
    ended: re.Pattern[str] | None = None  # its line when a host's ranks have failed; None: it ends with all of them
    heeds_term: bool = True  # SIGTERM to it ends this run's ranks and no others
    ends_hosts: bool = False  # and that reaches all hosts, if it gets time: ssh may not
    per_host: Callable[[Sequence[str], Cluster], dict[str, str]] = lambda command, cluster: {}  # for ``--dry-run``
    command: Callable[[Order], list[str]] | None = None  # None: DeepSpeed's launcher, which knows it by its name

    def why_not(self) -> str:
        """Why it does not run on this host; empty if it does."""
        return "" if shutil.which(self.program) else f"{self.program} is not installed on this host"


def openmpi_options(cluster: Cluster, rendezvous: Rendezvous) -> str:
    """DeepSpeed would say eth0; and cores are for the ranks' own threads to share."""
    on = rendezvous.interface
    return f"--bind-to none --mca btl_tcp_if_include {on} --mca oob_tcp_if_include {on}"


def slurm_options(cluster: Cluster, rendezvous: Rendezvous) -> str:
    return f"--nodes={len(cluster.hosts)} --nodelist={','.join(cluster.names)} --kill-on-bad-exit=1"


def hydra_options(cluster: Cluster, rendezvous: Rendezvous) -> str:
    """Other hosts would call mpirun back by this host's name."""
    return f"-iface {rendezvous.interface}"


def slurm_environment(own: dict[str, str]) -> dict[str, str]:
    """Since Slurm 22.05 srun does not take a task's cores over from the allocation."""
    return {OF_STEP: own[OF_TASK], **own} if OF_TASK in own else own


def slurm_threads() -> int:
    """An allocation binds each task to its own cores: what it gives to a task."""
    return next((int(os.environ[n]) for n in (OF_STEP, OF_TASK) if os.environ.get(n, "").isdecimal()), 1)


def pdsh_shells(command: Sequence[str], cluster: Cluster) -> dict[str, str]:
    """Host -> what its shell is told."""
    words = " ".join(command[list(command).index(",".join(cluster.names)) + 1 :])
    return {name: words.replace("%n", str(place)).strip() for place, name in enumerate(cluster.names)}


PDSH = Launcher(
    "pdsh",
    "pdsh",
    needs="pdsh",
    tested="pdsh 2.34",
    reaches="ssh; `PDSH_SSH_ARGS_APPEND` holds further options",
    safe=re.compile(r"[\w@+=:,./ ^-]*", re.ASCII),  # quoted for the remote shell; pdsh itself replaces %h, %n, %u
    chooses_devices=True,
    uneven=True,
    ended=re.compile(r"^pdsh@[^:]+: (\S+): ssh exited with exit code (\d+)"),
    heeds_term=False,  # DeepSpeed's launcher would run ``pkill -f`` on every host
    per_host=pdsh_shells,
)
LAUNCHERS = (
    PDSH,
    Launcher(
        "openmpi",
        "ompi_info",
        needs="Open MPI",
        tested="4.1.4",
        reaches="ssh; `OMPI_MCA_plm_rsh_agent` is the command",
        uneven=True,
        says_where=False,
        options=openmpi_options,
    ),
    Launcher(
        "slurm",
        "sinfo",
        needs="an allocation (`salloc`), or it asks for one",
        tested="22.05.8",
        reaches="srun; ssh is needed for the checks only",
        safe=re.compile(r"[\w@%+=:./-]*", re.ASCII),  # srun's --export is separated by commas
        says_where=False,
        starts_files=True,
        options=slurm_options,
        environment=slurm_environment,
        threads=slurm_threads,
        ends_hosts=True,
    ),
    Launcher(
        "mpich",
        "mpirun",
        needs="MPICH's `mpirun`",
        tested="5.0.2",
        reaches="ssh; `HYDRA_LAUNCHER_EXTRA_ARGS` holds further options",
        starts_files=True,
        options=hydra_options,
    ),
    Launcher(
        "impi",
        "mpirun",
        needs="Intel MPI's `mpirun`",
        tested="2021.19.0",
        reaches="ssh; `I_MPI_HYDRA_BOOTSTRAP_EXEC_EXTRA_ARGS` holds further options",
        options=hydra_options,
    ),
)


def find_launcher(name: str) -> Launcher:
    """The launcher of a name, or of an import path. Raises InputError naming what is known, or what is missing."""
    for known in LAUNCHERS:
        if known.name == name:
            return known
    module, colon, variable = name.partition(":")
    names = [launcher.name for launcher in LAUNCHERS]
    if not colon:
        raise InputError(
            f"--launcher {name}: unknown{nearest(name, names)}; choose one of {', '.join(names)}, or give an import "
            "path such as my_pkg.my_module:LAUNCHER"
        )
    found = getattr(own_modules.load(module, f"--launcher {name}"), variable, None)
    if not isinstance(found, Launcher) or found.command is None:
        raise InputError(f"--launcher {name}: {module} has no Launcher '{variable}' with a command")
    return found


def check_launcher(cluster: Cluster) -> None:
    """Raise InputError if the launcher is not installed, or cannot place ranks as wanted."""
    launcher = cluster.launcher
    if why := launcher.why_not():
        others = ", ".join(other.name for other in LAUNCHERS if other is not launcher)
        raise InputError(f"--launcher {launcher.name}: {why}; install it, or choose one of {others}")
    start = f"--launcher {launcher.name}"
    for host in cluster.hosts if not launcher.chooses_devices else ():
        if host.slots != tuple(range(len(host.slots))):
            raise InputError(f"{start}: cannot choose devices of {host.name}; use pdsh, or whole hosts")
    if not launcher.uneven and len({len(host.slots) for host in cluster.hosts}) > 1:
        raise InputError(f"{start}: needs equally many slots on every host; mend the hostfile")
