"""Options of the command line that say on which hosts ranks run, and how they are reached."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tracestill.data_pipeline.base.errors import InputError

if TYPE_CHECKING:
    from tracestill.launch.hosts.cluster import Cluster

HostfileOption = Annotated[
    Path | None,
    typer.Option("--hostfile", metavar="FILE", help="Ranks run on these hosts: a line `host slots=N` each."),
]
IncludeOption = Annotated[
    str, typer.Option("--include", metavar="HOSTS", help="Only these of the hostfile: HOST[:SLOT,...][@HOST...].")
]
ExcludeOption = Annotated[str, typer.Option("--exclude", metavar="HOSTS", help="All of the hostfile but these.")]
LauncherOption = Annotated[
    Literal["pdsh", "openmpi", "slurm", "mpich", "impi"],
    typer.Option("--launcher", help="What starts the ranks on the other hosts."),
]
InterfaceOption = Annotated[
    str | None,
    typer.Option("--interface", metavar="NAME", help="Network interface for the ranks. Default: the one ssh uses."),
]
AddressOption = Annotated[
    str | None,
    typer.Option("--master-addr", metavar="IP", help="Address of the first host where ranks meet. Default: found out."),
]
PortOption = Annotated[
    int | None,
    typer.Option("--master-port", min=1024, max=65535, help="Port where ranks meet. Default: a free one."),
]
EnvOption = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME[=VALUE]", help="Pass a variable on to the ranks on other hosts. Repeatable."),
]
MaxRestartsOption = Annotated[
    int,
    typer.Option(
        "--max-restarts", metavar="N", min=0, help="After a rank failed, go on from the newest checkpoint, N times."
    ),
]
ElasticOption = Annotated[
    bool, typer.Option("--elastic", help="A restart leaves out hosts that no longer answer. With --max-restarts.")
]


def cluster_of(
    hostfile: Path | None,
    include: str,
    exclude: str,
    launcher: str,
    interface: str | None,
    address: str | None,
    port: int | None,
    env: list[str] | None,
    elastic: bool = False,
) -> Cluster | None:
    """The hosts that the options mean; None for this one alone."""
    from tracestill.launch.hosts.cluster import read_cluster

    if hostfile is None:
        for option, given in (
            ("--include", include),
            ("--exclude", exclude),
            ("--interface", interface),
            ("--env", env),
            ("--elastic", elastic),
        ):
            if given:
                raise InputError(f"{option}: chooses among hosts; give --hostfile too")
        return None
    named = {"launcher": launcher, "interface": interface, "address": address, "port": port}
    return read_cluster(hostfile, include=include, exclude=exclude, variables=env or (), elastic=elastic, **named)  # type: ignore[arg-type]
