"""``tracestill watch``: a run, live, from its directory alone."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a run, running or not.")],
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait for a run that is not there yet, and for the next command in it.")
    ] = False,
    once: Annotated[bool, typer.Option("--once", help="Show how it is now, and end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="With --once: as JSON.")] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Show its report in a browser on this host, too; it follows the run.")
    ] = False,
    port: Annotated[
        int | None,
        typer.Option("--port", metavar="N", min=1, max=65535, help="With --serve: this port. Default: a free one."),
    ] = None,
) -> None:
    """Show a run while it goes on: the stage at work, the arms' losses by kind, and what is wrong.

    It reads the run's directory alone, writes nothing, and ends with the command that is at work there, or by Ctrl-C.
    Tab shows further arms where not all fit; without a terminal it says each change in a line.

    Example: [cyan]tracestill watch runs/demo[/], [cyan]tracestill watch runs/demo --serve --port 8080[/]
    """
    from tracestill.launch.commands.execution import looking
    from tracestill.launch.watch.watch import show_once
    from tracestill.trainer.ranks.console import Terminal

    if as_json and not once:
        raise typer.BadParameter("--json belongs to --once")
    if port is not None and not serve:
        raise typer.BadParameter("--port belongs to --serve")
    if once and (wait or serve):
        raise typer.BadParameter("--once shows it now; leave --wait and --serve out")
    with looking(), until_nobody_reads():
        if once:
            show_once(run, Terminal(), as_json=as_json)
        else:
            follow(run, wait=wait, port=(port or 0) if serve else None)


def follow(run: Path, *, wait: bool, port: int | None) -> None:
    """Watch, and with a ``port`` (0: a free one) serve the report as long; then only the user ends it."""
    from tracestill.launch.watch.live_report import LiveReport
    from tracestill.launch.watch.serve import served
    from tracestill.launch.watch.watch import check_is_there, watch
    from tracestill.trainer.ranks.console import Terminal, say

    if port is None:
        return watch(run, Terminal(), stays=wait)
    if not wait:
        check_is_there(run)
    with served(LiveReport(run), port) as address:
        say(f"report: {address} (on this host; Ctrl-C ends it)", err=True)
        watch(run, Terminal(), stays=True, note=f"report: {address}")
    return None


@contextlib.contextmanager
def until_nobody_reads() -> Iterator[None]:
    """Whoever reads our lines may have seen enough: ``tracestill watch RUN | head``."""
    try:
        yield
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left is flushed there at the end
