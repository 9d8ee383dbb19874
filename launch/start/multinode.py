"""DeepSpeed's launcher on several hosts: its arguments, the two files it reads, and an end that ends only this run.

Runs with one launch's token in the environment of every process on every host. When a run has to end early, those
processes are ended by it; DeepSpeed's launcher itself gets SIGKILL, because on SIGTERM it would run ``pkill -f`` on
every host and end other people's trainings too.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import sync
from tracestill.launch.hosts.cluster import LOOPBACK, Cluster, Rendezvous, Survey, survey
from tracestill.launch.hosts.hostfile import format_hostfile
from tracestill.launch.hosts.launchers import Order
from tracestill.launch.hosts.preflight import judge_here, require_ready
from tracestill.launch.hosts.remote import END, ask_all
from tracestill.launch.hosts.start_module import START, module_command
from tracestill.launch.start import deepspeed_command
from tracestill.launch.start.rank_environment import (
    check_text,
    format_environment,
    launcher_environment,
    rank_environment,
    refuse_foreign_file,
)
from tracestill.trainer.faults.failure import NO_ANSWER
from tracestill.trainer.lock.end_marked import GRACE_SECONDS
from tracestill.trainer.lock.run_lock import token_of
from tracestill.trainer.ranks.cores import threads_of
from tracestill.trainer.ranks.join_ranks import LAUNCH, OWNER, free_port
from tracestill.trainer.recipe.recipe import Recipe

WAIT_SECONDS = 15.0  # for the other hosts, once a host has ended with an error
SILENT = re.compile(rf"^(\S+: )?failed: rank \d+ [^;]* {NO_ANSWER} ")  # a host that there is no use in waiting for
LAST_SECONDS = 10.0  # after which the ranks that said so have ended


@dataclass(frozen=True)
class Launch:
    """One start of DeepSpeed's launcher, ready to run."""

    cluster: Cluster
    rendezvous: Rendezvous
    token: str
    arguments: list[str]
    environment: dict[str, str]  # of the launcher, on this host
    variables: dict[str, str]  # of the ranks, on every host
    gpus: bool


def check_hosts(cluster: Cluster, root: Path, recipe: Recipe | None = None) -> tuple[Survey, Rendezvous]:
    """Ask the hosts whether they could train now, in a directory as ``survey`` takes it with a recipe.

    Raises InputError naming a host and what is wrong there.
    """
    if cluster.here_only:
        found = survey(cluster, root, recipe)
        judge_here(found)
        return found, rendezvous_here(cluster)
    refuse_foreign_file(Path.cwd())
    found = survey(cluster, root, recipe)
    return found, require_ready(found)


def rendezvous_here(cluster: Cluster) -> Rendezvous:
    """Where ranks of this host alone meet: on its loopback interface, where nobody else can listen."""
    address = cluster.address or LOOPBACK[0]
    return Rendezvous(address, cluster.port or free_port(address), "lo")


def prepare(
    cluster: Cluster, root: Path, entry: str, words: Sequence[str], folder: Path, recipe: Recipe | None = None
) -> Launch:
    """Check the hosts as ``check_hosts``, then ``assemble``."""
    found, rendezvous = check_hosts(cluster, root, recipe)
    return assemble(found, rendezvous, entry, words, folder, root)


def assemble(
    found: Survey, rendezvous: Rendezvous, entry: str, words: Sequence[str], folder: Path, root: Path | None = None
) -> Launch:
    """Write the launcher's files into ``folder``, and say how it starts ``entry`` with ``words`` on the hosts asked.
    ``root`` is the run's directory, if it is for one.

    Raises InputError for a path or a variable that would not arrive as it is.
    """
    cluster = found.cluster
    token, owner = uuid.uuid4().hex, token_of(root) if root else None
    # Whoever takes over the lock of a dead owner ends what bears its token.
    variables = {LAUNCH: token, **({OWNER: owner} if owner else {})}
    launcher = cluster.launcher
    variables |= rank_environment(
        cluster.variables,
        gpus=found.gpus,
        interface=rendezvous.interface,
        launcher=None if cluster.here_only else launcher,
        stated=cluster.interface is not None,
        threads=threads_on(found),
    )
    if not cluster.here_only:  # else DeepSpeed puts the working directory before it
        variables.setdefault("PYTHONPATH", os.environ.get("PYTHONPATH", ""))
    if not launcher.says_where and not cluster.here_only:
        variables |= {"MASTER_ADDR": rendezvous.address, "MASTER_PORT": str(rendezvous.port)}
    for word in [sys.executable, str(Path.cwd()), *words] if not cluster.here_only else ():
        check_text(word, "the path or argument", launcher)
        if " " in word:
            raise InputError(
                f"the path or argument holds a space, which DeepSpeed's launchers do not pass on: {word!r}"
            )
    folder = folder.absolute()
    hosts, environment = folder / "hosts", folder / "environment"
    folder.mkdir(parents=True, exist_ok=True)
    write(hosts, format_hostfile(cluster.hosts))
    write(environment, format_environment(variables))
    if launcher.command is not None and not cluster.here_only:
        order = Order(cluster, rendezvous, variables, [*module_command(entry), *words], folder)
        arguments = launcher.command(order)
    else:
        arguments = command(cluster, rendezvous, hosts, entry, words)
    if cluster.here_only:
        own = {**deepspeed_command.child_environment(int(found.gpus)), **variables}
        own.pop("CUDA_VISIBLE_DEVICES", None)  # the hostfile's slots say which
    else:
        own = launcher_environment(environment, launcher) | (variables if launcher.command is not None else {})
    return Launch(cluster, rendezvous, token, arguments, own, variables, found.gpus)


def threads_on(found: Survey) -> int:
    """Threads of each rank where ranks compute on CPUs: as the launcher binds them to cores, or else those of the host
    with the fewest cores a rank."""
    bound = found.cluster.launcher.threads
    if bound is not None and not found.cluster.here_only:
        return bound()
    return min((threads_of(len(host.slots), facts.get("cores", 1)) for host, facts in found.answered), default=1)


def start_on(cluster: Cluster, root: Path, arm: str, resume: str) -> deepspeed_command.Start:
    """How an arm's training starts on a cluster. Raises InputError as ``prepare`` does."""
    words = deepspeed_command.rank_arguments(root.absolute(), arm, resume)
    return start_entry(cluster, root, deepspeed_command.ENTRY_POINT, words, folder_of(root, arm))


def start_entry(
    cluster: Cluster, root: Path, entry: str, words: Sequence[str], folder: Path
) -> deepspeed_command.Start:
    """How the ranks of a module start on a cluster. Raises InputError as ``prepare`` does."""
    launch = prepare(cluster, root, entry, words, folder)
    where = f" of {len(cluster.hosts)} host(s)"
    return deepspeed_command.Start(
        launch.arguments, launch.environment, cluster.ranks, launch.gpus, where, HostWatch(launch)
    )


def folder_of(root: Path, arm: str) -> Path:
    """Where an arm's training keeps the launcher's files."""
    return root / "launch" / arm


def write(path: Path, text: str) -> None:
    """A file that only this user can read."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as handle:
        handle.write(text)
    sync(path)


def command(cluster: Cluster, rendezvous: Rendezvous, hosts: Path, entry: str, words: Sequence[str]) -> list[str]:
    """Arguments of DeepSpeed's launcher. It looks neither for ssh nor for an address: both were checked before."""
    found = [*module_command("deepspeed.launcher.runner"), "--hostfile", str(hosts), "--no_ssh_check"]
    found += ["--master_addr", rendezvous.address, "--master_port", str(rendezvous.port)]
    if any(host.slots != tuple(range(len(host.slots))) for host in cluster.hosts):
        if any(":" in host.name for host in cluster.hosts):
            raise InputError("devices of a host that is named by its IPv6 address cannot be chosen; give it a name")
        chosen = "@".join(f"{host.name}:{','.join(map(str, host.slots))}" for host in cluster.hosts)
        found += ["--include", chosen]
    launcher = cluster.launcher
    if not cluster.here_only:
        found += ["--launcher", launcher.name, *(["--force_multi"] if len(cluster.hosts) == 1 else [])]
        found += [f"--launcher_args={extra}"] if (extra := launcher.options(cluster, rendezvous)) else []
    if not cluster.here_only and launcher.starts_files:
        return [*found, str(START), entry, *words]
    return [*found, "--module", entry, *words]


class HostWatch:
    """Notices that one host has ended with an error while others go on, and ends what is left on all of them."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.failed_at: float | None = None
        self.wait = WAIT_SECONDS

    def line(self, text: str) -> None:
        """Look at a line that the launcher printed."""
        ended = self.launch.cluster.launcher.ended
        if SILENT.match(text):  # hosts that do answer heard the same alarm; ``end`` gives them time enough
            self.wait = 0.0
            if ended is None and self.failed_at is None:  # it will not tell, and waits for one that is out of reach
                self.failed_at, self.wait = time.monotonic(), LAST_SECONDS
        if ended is not None and ended.match(text) and self.failed_at is None:
            self.failed_at = time.monotonic()

    def overdue(self) -> bool:
        """Whether the other hosts have had their time to follow."""
        return self.failed_at is not None and time.monotonic() > self.failed_at + self.wait

    def end(self, process: subprocess.Popen[str], grace: float) -> None:
        """Make sure that nothing of this launch is left on any host; ``grace`` is that of ``end_group``."""
        code, cluster, launcher = process.poll(), self.launch.cluster, self.launch.cluster.launcher
        family = descendants(process.pid) if code is None else []  # pdsh's ssh are in process groups of their own
        if launcher.ends_hosts:  # killed, it would leave ranks on other hosts
            grace = deepspeed_command.GRACE_SECONDS
        if cluster.here_only or launcher.heeds_term:
            deepspeed_command.end_group(process, grace)
        if code != 0 and not cluster.here_only and not launcher.ends_hosts:
            end_everywhere(cluster, self.launch.token)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for child in family:
            with contextlib.suppress(psutil.Error):
                child.kill()
        process.wait()


def descendants(pid: int) -> list[psutil.Process]:
    """What a process started, and what that started."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


def end_everywhere(cluster: Cluster, token: str) -> int:
    """End the processes of a launch on every host that answers; how many there were."""
    replies = ask_all(cluster.targets, END, [{"token": token}] * len(cluster.hosts), 2 * GRACE_SECONDS + 10)
    return sum(reply.value.get("ended", 0) for reply in replies)


def ranks_by_host(cluster: Cluster) -> Mapping[str, range]:
    """Host -> its ranks, in the hostfile's order."""
    found, first = {}, 0
    for host in cluster.hosts:
        found[host.name] = range(first, first + len(host.slots))
        first += len(host.slots)
    return found
