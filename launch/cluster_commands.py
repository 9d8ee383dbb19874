"""Commands about clusters: ``doctor`` looks one over, ``slurm`` and ``kubernetes`` write what their schedulers run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from tracestill.launch.host_options import (
    AddressOption,
    EnvOption,
    ExcludeOption,
    HostfileOption,
    IncludeOption,
    InterfaceOption,
    LauncherOption,
    PortOption,
    cluster_of,
)


def doctor(
    run_dir: Annotated[
        Path, typer.Option("--run-dir", metavar="DIR", help="A directory that all hosts are to share.")
    ] = Path("."),
    hostfile: HostfileOption = None,
    include: IncludeOption = "",
    exclude: ExcludeOption = "",
    launcher: LauncherOption = "pdsh",
    interface: InterfaceOption = None,
    master_addr: AddressOption = None,
    master_port: PortOption = None,
    env: EnvOption = None,
) -> None:
    """Look over this host, or those of a hostfile, before anything is allocated. Exit code 1 if something is red.

    Example: [cyan]tracestill doctor --hostfile hosts --run-dir /shared/runs[/]
    """
    from tracestill.launch.doctor import run_doctor, this_host

    cluster = cluster_of(hostfile, include, exclude, launcher, interface, master_addr, master_port, env)
    if not run_doctor(cluster or this_host(), run_dir, Console()):
        raise typer.Exit(1)
