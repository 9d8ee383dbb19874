"""How many cores this process may use, and how ranks on a CPU share them. Imports no torch.

A container or a job has fewer cores than its host: what counts is the scheduler's affinity and the control group's
quota. Why ranks come before threads: ``benchmarks/cpu_ranks.py``.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from pathlib import Path

THREADS = "OMP_NUM_THREADS"
ON_HOST = ("LOCAL_WORLD_SIZE", "LOCAL_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")  # whoever starts ranks
OF_TASK = "SLURM_CPUS_PER_TASK"


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process may use: of its affinity, but no more than its control groups' quota, rounded down.

    ``root`` is where ``proc`` and ``sys`` lie.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, int(quota(root) or cores)))


def quota(root: Path) -> float | None:
    """Cores that the control groups of this process let it use at a time; None: all."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        mounts = [""] if not controllers else ["cpu", "cpu,cpuacct"] if "cpu" in controllers.split(",") else []
        own = Path(path.lstrip("/"))
        for mount in mounts:
            # each group above counts too; within a container the path may be one of the host that is not there
            found += [limit(root / "sys/fs/cgroup" / mount / group) for group in (own, *own.parents)]
    return min((cores for cores in found if cores is not None), default=None)


def limit(group: Path) -> float | None:
    """A control group's own limit in cores: cpu.max of version 2, the two files of version 1."""
    with contextlib.suppress(OSError, ValueError):
        amount, period = (group / "cpu.max").read_text(encoding="ascii").split()
        return None if amount == "max" else int(amount) / int(period)
    with contextlib.suppress(OSError, ValueError):
        amount, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        return None if int(amount) <= 0 else int(amount) / int(period)
    return None


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory of this host, or of its control groups if they have less. ``root`` as in ``usable_cores``."""
    import psutil

    found = [psutil.virtual_memory().total]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines():
            own = Path(line.split(":", 2)[2].lstrip("/"))
            for group in (own, *own.parents):
                for file in ("memory.max", "memory/memory.limit_in_bytes"):
                    folder, name = root / "sys/fs/cgroup", Path(file)
                    with contextlib.suppress(OSError, ValueError):
                        found.append(int((folder / name.parent / group / name.name).read_text(encoding="ascii")))
    return min(found)


def wanted_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """Threads that the user asks for (OMP_NUM_THREADS), None if there is no such number."""
    found = re.fullmatch(r"\s*(\d+)\b.*", environment.get(THREADS, ""))
    return int(found[1]) or None if found else None


def share_cores(
    cores: int, packs: int, parts: int = 1, threads: int | None = None, *, most: int | None = None
) -> tuple[int, int]:
    """Ranks, and threads of each, for steps of ``packs`` packs each of which ``parts`` ranks share, ``most`` at a time.

    As many ranks as have a pack to work on and a core (or the given ``threads``), but no more than make the micro-steps
    of a step fewer; what is left becomes threads. Depends on its arguments alone, so a host always gives the same.
    """
    at_once = max(1, min(packs, cores // (parts * (threads or 1)), most or packs))
    rounds = -(-packs // at_once)
    groups = -(-packs // rounds)
    return groups * parts, threads or threads_of(groups * parts, cores)


def threads_of(ranks: int, cores: int) -> int:
    """Threads of each of ``ranks`` that share ``cores``."""
    return max(1, cores // ranks)


def own_threads(environment: Mapping[str, str] = os.environ) -> int | None:
    """Threads for this rank where whoever started it did not say; None: OMP_NUM_THREADS does."""
    if wanted_threads(environment) is not None:
        return None
    shared = any(name in environment for name in ON_HOST[:2])  # a launcher started several ranks within a task
    if not shared and environment.get(OF_TASK, "").isdecimal():
        return max(1, int(environment[OF_TASK]))
    here = next((int(environment[name]) for name in ON_HOST if environment.get(name, "").isdecimal()), 1)
    return threads_of(here, usable_cores())
