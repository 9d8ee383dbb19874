"""Looks a cluster over before anything is allocated: one table, a line for each check, and who is at fault."""

from __future__ import annotations

import ipaddress
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.secret import mask
from tracestill.launch.hosts import preflight
from tracestill.launch.hosts.cluster import Cluster, Rendezvous, Survey, addresses, interface_of, survey
from tracestill.launch.hosts.hostfile import Host
from tracestill.launch.hosts.preflight import SLOW, Finding, lags
from tracestill.launch.hosts.probe import MARK
from tracestill.launch.start import deepspeed_command, multinode
from tracestill.launch.start.multinode import HostWatch
from tracestill.launch.start.rank_environment import refuse_foreign_file
from tracestill.trainer.ranks.cores import usable_cores

ENTRY_POINT = "tracestill.launch.hosts.collective"
WRITTEN = 64 << 20  # bytes that each host writes, to time it
COLLECTIVE_SECONDS = 180.0  # imports of a busy machine included
COLOURS = {"ok": "green", "slow": "yellow", "bad": "red", "skipped": "dim"}
BY_FACTS: tuple[Callable[[Survey], Finding], ...] = (
    preflight.check_versions,
    preflight.check_clocks,
    preflight.check_devices,
    preflight.check_memory,
    preflight.check_disk,
)


def this_host() -> Cluster:
    """This host alone, with the ranks that training would use."""
    ranks = deepspeed_command.count_gpus() or min(2, usable_cores())
    return Cluster((Host("localhost", tuple(range(ranks))),))


def examine(cluster: Cluster, directory: Path) -> Iterator[Finding]:
    """The outcome of each check, as soon as it is known."""
    found = survey(cluster, directory, write=WRITTEN)
    reached = preflight.check_reached(found)
    yield reached
    if not found.answered:
        return
    whole = reached.state == "ok"
    for check in BY_FACTS:
        finding = check(found)
        whole &= finding.state != "bad"
        yield finding
    rendezvous = None
    if not cluster.here_only:
        shared = preflight.check_directory(found)
        environment, ports, rendezvous = check_environment(), *check_network(found)
        yield from (shared, environment, ports)
        whole &= "bad" not in (environment.state, ports.state)
    if not whole:
        yield Finding("collectives", "skipped", "not tried before the rest is in order")
        return
    yield from check_collectives(found, rendezvous or multinode.rendezvous_here(cluster))


def check_environment() -> Finding:
    try:
        refuse_foreign_file(Path.cwd())
    except InputError as error:
        return Finding("environment", "bad", str(error))
    return Finding("environment", "ok", "no .deepspeed_env in the working directory")


def check_network(found: Survey) -> tuple[Finding, Rendezvous | None]:
    try:
        return preflight.check_ports(found, preflight.meet(found))
    except InputError as error:
        return Finding("ports", "bad", str(error)), None


def check_collectives(found: Survey, rendezvous: Rendezvous) -> Iterator[Finding]:
    """Start ranks as training would, let them talk, and look at how fast each host and link is."""
    cluster = found.cluster
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        try:
            measured = run_collectives(found, rendezvous, Path(folder), log)
        except (InputError, deepspeed_command.TrainingFailed) as error:
            yield Finding("collectives", "bad", str(error).partition("; the whole output")[0] + last_error(log))
            return
    speeds = f"all-reduce {gigabytes(measured['all_reduce'])}, all-gather {gigabytes(measured['all_gather'])}"
    yield Finding("collectives", "ok", f"{speeds} on {cluster.ranks} ranks ({measured['device']})")
    yield check_exposure(cluster, measured["listens"])
    yield check_attention(measured["attention"])
    if measured["links"]:
        yield check_links(found, measured["links"])
    yield check_compute(cluster, measured["flops"])


def run_collectives(found: Survey, rendezvous: Rendezvous, folder: Path, log: Path) -> dict[str, Any]:
    """What rank 0 of the collective test reports. Raises TrainingFailed if there is no report."""
    words = ["--slots", ",".join(str(len(host.slots)) for host in found.cluster.hosts)]
    launch = multinode.assemble(found, rendezvous, ENTRY_POINT, words, folder)
    deadline = time.monotonic() + COLLECTIVE_SECONDS

    def on_poll() -> None:
        if time.monotonic() > deadline:
            raise deepspeed_command.TrainingFailed(f"ranks did not finish within {COLLECTIVE_SECONDS:.0f} s")

    deepspeed_command.run(launch.arguments, log, launch.environment, on_poll, HostWatch(launch))
    for line in log.read_text(encoding="utf-8").splitlines():
        if MARK in line:
            return dict(json.loads(line.partition(MARK)[2]))
    raise deepspeed_command.TrainingFailed("ranks ended without a result")


def last_error(log: Path) -> str:
    """The last line of a log that looks like an exception's, or like what a rank says as it fails."""
    if not log.exists():
        return ""
    lines = [line for line in log.read_text(encoding="utf-8").splitlines() if "Error" in line or "failed: " in line]
    return f": {lines[-1].strip()}" if lines else ""


def check_links(found: Survey, links: list[float]) -> Finding:
    """Each link against what its network interface can carry, and against the others."""
    slow, said = [], []
    names = found.cluster.names
    for place, ((host, facts), speed) in enumerate(zip(found.answered, links, strict=True)):
        link = f"{host.name}-{names[(place + 1) % len(names)]} {gigabytes(speed)}"
        interface = interface_of(facts, addresses(found)[place]) or ""
        carries = facts["interfaces"].get(interface, {}).get("speed", 0) * 1e6 / 8  # from Mbit/s
        link += f" of {gigabytes(carries)}" if carries else ""
        said.append(link)
        if lags(speed, links) or (carries and speed < SLOW * carries):
            slow.append(link)
    return Finding("links", "slow" if slow else "ok", ", ".join(slow or said))


def check_exposure(cluster: Cluster, listens: list[str]) -> Finding:
    """Who can reach the ranks, by the addresses at which they listen: nothing there asks for a password."""
    found = {address: ipaddress.ip_address(address.partition("%")[0]) for address in listens}
    network = [address for address, ip in found.items() if not ip.is_loopback]
    if not network:
        return Finding("exposure", "ok", "ranks listen on the loopback interface only")
    faults = [f"on all interfaces ({address})" for address in network if found[address].is_unspecified]
    faults += [f"at {address}, which the internet knows" for address in network if found[address].is_global]
    if cluster.here_only and not faults:
        faults.append(f"at {', '.join(network)}, where other hosts can reach them, though all ranks are on this host")
    if faults:
        advice = "whoever reaches them there can read, change and stop the training: choose another --interface, or let"
        return Finding("exposure", "slow", f"ranks listen {'; '.join(faults)}; {advice} a firewall keep others out")
    return Finding("exposure", "ok", f"ranks listen at {', '.join(network)} only; keep others off this network")


def check_attention(chosen: list[str]) -> Finding:
    """Which attention backend ranks would use, by default and for most models, and why not another."""
    return Finding("attention", "ok" if len(chosen) == 1 else "slow", " | ".join(chosen))


def check_compute(cluster: Cluster, flops: list[float]) -> Finding:
    """Whether some rank multiplies matrices much more slowly than the others."""
    usual = statistics.median(flops)
    slow = [
        f"{host} rank {rank} computes {flops[rank] / 1e12:.3g} TFLOP/s, the median is {usual / 1e12:.3g}"
        for host, ranks in multinode.ranks_by_host(cluster).items()
        for rank in ranks
        if lags(flops[rank], flops)
    ]
    fine = f"{min(flops) / 1e12:.3g} TFLOP/s a rank or more"
    return Finding("compute", "slow" if slow else "ok", "; ".join(slow) or fine)


def gigabytes(bytes_a_second: float) -> str:
    return f"{bytes_a_second / 1e9:.2f} GB/s"


def run_doctor(cluster: Cluster, directory: Path, console: Console) -> bool:
    """Print the table; whether nothing is red."""
    table = Table("check", "", "what was found", title=f"{cluster.ranks} rank(s) on {', '.join(cluster.names)}")
    good = True
    with console.status("asking the hosts"):
        for finding in examine(cluster, directory):
            good &= finding.state != "bad"
            table.add_row(finding.check, Text(finding.state, style=COLOURS[finding.state]), Text(mask(finding.text)))
    console.print(table)
    return good
