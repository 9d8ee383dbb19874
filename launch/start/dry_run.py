"""What training would run, on which host and with which environment, without running it."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

from tracestill.launch.hosts.cluster import Cluster
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.launch.start.multinode import Launch, ranks_by_host
from tracestill.launch.start.rank_environment import is_of_training
from tracestill.launch.start.rehearse import rehearse
from tracestill.trainer.ranks.join_ranks import LAUNCH
from tracestill.trainer.recipe.run_directory import RunDirectory


def describe_training(run: RunDirectory, arm: str, resume: str, cluster: Cluster | None) -> str:
    """The commands that `tracestill train` would lead to for an arm, hosts asked but nothing started or kept."""
    if cluster is None:
        own = run.recipe.for_arm(arm)
        start = deepspeed_command.start_here(own, run.root, arm, resume)
        executed, environment = rehearse(start.arguments, start.environment)
        text = f"this host, {start.ranks} rank(s):\n" + paragraph(executed, environment)
        return text.replace(start.environment[LAUNCH], "<token>")
    words = deepspeed_command.rank_arguments(run.root.absolute(), arm, resume)
    with tempfile.TemporaryDirectory() as folder:
        launch = multinode.prepare(cluster, run.root, deepspeed_command.ENTRY_POINT, words, Path(folder), run.recipe)
        executed, environment = launch.arguments, launch.environment
        if cluster.here_only or cluster.launcher.command is None:
            executed, environment = rehearse(executed, environment)
        text = describe(launch, executed, environment)
    return text.replace(folder, str(multinode.folder_of(run.root, arm))).replace(launch.token, "<token>")


def describe(launch: Launch, executed: list[str], environment: Mapping[str, str]) -> str:
    """The launcher's command on this host, and what each host is told by it."""
    cluster, rendezvous = launch.cluster, launch.rendezvous
    lines = [f"{cluster.ranks} ranks meet at {rendezvous.address}:{rendezvous.port}, over {rendezvous.interface}"]
    for (name, ranks), host in zip(ranks_by_host(cluster).items(), cluster.hosts, strict=True):
        lines.append(f"  {name}: ranks {ranks[0]} to {ranks[-1]}, devices {', '.join(map(str, host.slots))}")
    lines += ["", "this host:", paragraph(executed, environment)]
    if not cluster.here_only:
        for name, told in cluster.launcher.per_host(executed, cluster).items():
            lines += ["", f"{name}, in a shell:", f"  {told}"]
    lines += ["", "the ranks' environment, besides what a login on their host sets:"]
    lines += [f"  {name}={value}" for name, value in sorted(launch.variables.items())]
    return "\n".join(lines) + "\n"


def paragraph(command: list[str], environment: Mapping[str, str]) -> str:
    """A command in a shell's notation below its environment: what training reads of it, and how much else there is."""
    shown = {name: value for name, value in environment.items() if is_of_training(name, value)}
    lines = [f"  {name}={shlex.quote(value)}" for name, value in sorted(shown.items())]
    if len(shown) < len(environment):
        lines.append(f"  (and {len(environment) - len(shown)} variables that are set here)")
    return "\n".join([*lines, "  " + shlex.join(command)])
