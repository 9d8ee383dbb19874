"""A Slurm for tests: a controller on the first of the hosts that cluster_support makes, and a slurmd on each of them.

Nothing outside their namespaces reaches it: its configuration, keys, spool and logs lie in the hosts' folder, and
munge's socket does too. Every process of it runs in a namespace, so ``Hosts.stop`` would end what this file leaves.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator

from cluster_support import Hosts, find, named, why_impossible

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "unshare")
SECONDS = 60  # for a node to become idle, on a busy machine
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={first}({address})
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# No cgroups: a container rarely lends them out.
ProctrackType=proctrack/linuxproc
# Each task is bound to its own cores, as on most clusters.
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
# Quick in what a real cluster has time for.
KillWait=20
SchedulerParameters=batch_sched_delay=0,sched_interval=2
{nodes}
# What a failed test left in the queue takes no room from the next one.
PartitionName=all Nodes=ALL Default=YES State=UP OverSubscribe=FORCE:4
"""


def why_no_slurm() -> str:
    """Why no Slurm can run here; empty if one can."""
    missing = [name for name in NEEDED if find(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install slurm-wlm munge)"
    return why_impossible()


class Slurm:
    """Slurm on ``hosts``, with two CPUs a node. Commands run on the first one."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts, self.folder = hosts, hosts.folder / "slurm"
        self.environment = {"SLURM_CONF": str(self.folder / "slurm.conf")}
        self.daemons: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self.folder.mkdir()
        first = self.hosts.names[0]
        nodes = [f"NodeName={n} NodeAddr={a} CPUs=2 RealMemory=1000" for n, a in self.hosts.addresses.items()]
        text = CONFIGURATION.format(
            first=first, address=self.hosts.addresses[first], folder=self.folder, nodes="\n".join(nodes)
        )
        (self.folder / "slurm.conf").write_text(text)
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # the other one insists on its mount
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        own = [f"--{name}-file={self.folder}/munge.{name}" for name in ("key", "log", "pid", "seed")]
        self.daemon(first, "munged", "--foreground", "--force", f"--socket={self.folder}/munge.socket", *own)
        self.wait_for(lambda: (self.folder / "munge.socket").exists(), "munge's socket")
        self.daemon(first, "slurmctld", "-D", "-i")
        for name in self.hosts.names:
            self.daemon(name, "slurmd", "-D")
        self.wait_for(lambda: self.states() == {"idle"}, "idle nodes")

    def daemon(self, host: str, program: str, *words: str) -> None:
        """Start a program on a host that bears its own name, as only that of a node finds its line in slurm.conf."""
        command = self.hosts.on(host, named(host, [str(find(program)), *words]))
        with (self.folder / f"{program}-{host}.out").open("ab") as log:
            found = subprocess.Popen(
                command, env=self.hosts.environment(**self.environment), stdout=log, stderr=log, start_new_session=True
            )
        self.daemons.append(found)

    def states(self) -> set[str]:
        """In what states the nodes are."""
        return set(self.ask("sinfo", "--noheader", "--Node", "--format=%t").split())

    def ask(self, *command: object) -> str:
        """What a command of Slurm's prints."""
        return self.hosts.run(*command, **self.environment).stdout

    def wait_for(self, condition: object, what: str, seconds: float = SECONDS) -> None:
        """Raises AssertionError with the daemons' output if it takes longer."""
        deadline = time.monotonic() + seconds
        while not condition():  # type: ignore[operator]
            assert time.monotonic() < deadline, f"no {what}\n{self.logs()}"
            assert all(daemon.poll() is None for daemon in self.daemons), self.logs()
            time.sleep(0.4)

    def logs(self) -> str:
        return "".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-4000:]}"
            for path in sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        )

    def state_of(self, job: str) -> str:
        """Such as PENDING, RUNNING, COMPLETED; Slurm forgets a job some minutes after its end."""
        return self.field(job, "JobState")

    def field(self, job: str, name: str) -> str:
        """A field of what Slurm knows of a job."""
        words = self.ask("scontrol", "show", "job", job).split()
        return next(word.partition("=")[2] for word in words if word.startswith(f"{name}="))

    def stop(self) -> None:
        for daemon in reversed(self.daemons):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(daemon.pid, signal.SIGKILL)
            daemon.wait()


@contextlib.contextmanager
def slurm(hosts: Hosts) -> Iterator[Slurm]:
    made = Slurm(hosts)
    try:
        made.start()
        yield made
    finally:
        made.stop()
