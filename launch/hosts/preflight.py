"""Checks of a cluster before anything is allocated: each takes what the hosts answered and names those at fault."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.hosts.cluster import Rendezvous, Survey, addresses, common_interface
from tracestill.launch.hosts.remote import PROBE, ask_all, finish, read_answer, start

CLOCK_SECONDS = 2.0  # by which clocks may differ: logs of hosts are read side by side
LOW_DISK = 2 << 30  # bytes free, less than which no checkpoint of a real student fits
SLOW = 0.5  # of the other hosts' median: slower ones are named
PORT_SECONDS = 20.0


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: ``ok``, ``slow`` (worth a look) or ``bad`` (training would fail)."""

    check: str
    state: str
    text: str


def judge(check: str, faults: Sequence[str], fine: str) -> Finding:
    return Finding(check, "bad" if faults else "ok", "; ".join(faults) or fine)


def check_reached(found: Survey) -> Finding:
    pairs = zip(found.cluster.hosts, found.replies, strict=True)
    slowest = max(reply.seconds for reply in found.replies)
    faults = [f"{host.name} {reply.problem}" for host, reply in pairs if reply.problem]
    return judge("hosts", faults, f"{len(found.replies)} answer, the slowest in {slowest:.1f} s")


def check_versions(found: Survey) -> Finding:
    """Every host has what the first has, down to our own source files."""
    (first, facts), *others = found.answered
    wanted = {**facts["versions"], "source of tracestill": facts["source"]}
    faults = []
    for host, theirs in others:
        has = {**theirs["versions"], "source of tracestill": theirs["source"]}
        faults += [
            f"{host.name} has {name} {has.get(name, 'missing')}, {first.name} has {wanted.get(name, 'none')}"
            for name in [*wanted, *(n for n in has if n not in wanted)]
            if has.get(name) != wanted.get(name)
        ]
    shown = [f"{name} {wanted[name]}" for name in ("torch", "deepspeed", "cuda", "nccl") if name in wanted]
    return judge("versions", faults, ", ".join(shown))


def check_clocks(found: Survey) -> Finding:
    """The hosts' clocks against this one's, as the answers arrive."""
    answered = [(h, r) for h, r in zip(found.cluster.hosts, found.replies, strict=True) if not r.problem]
    apart = {host.name: reply.value["time"] - reply.arrived for host, reply in answered}
    faults = [f"{name} is {by:+.1f} s from this host" for name, by in apart.items() if abs(by) > CLOCK_SECONDS]
    return judge("clocks", faults, f"within {max(map(abs, apart.values())):.2f} s of this host's")


def check_devices(found: Survey) -> Finding:
    """A GPU for each slot, free of uncorrected memory errors and the same model everywhere; or none anywhere."""
    if not found.gpus:
        few = [
            f"{h.name} {len(h.slots)} ranks on {f['cores']} cores"
            for h, f in found.answered
            if len(h.slots) > f["cores"]
        ]
        return Finding("devices", "slow" if few else "ok", "; ".join(few) or "no GPUs: ranks compute on the CPU")
    faults, models = [], set()
    for host, facts in found.answered:
        if host.slots[-1] >= len(facts["gpus"]):
            faults.append(f"{host.name} has {len(facts['gpus'])} GPU(s), the hostfile uses slot {host.slots[-1]}")
        for slot, gpu in enumerate(facts["gpus"]):
            models.add(gpu["name"])
            if gpu["ecc"]:
                faults.append(
                    f"{host.name} GPU {slot} counts {gpu['ecc']} uncorrected memory errors; reset or replace it"
                )
    if len(models) > 1:
        faults.append(f"GPUs differ: {', '.join(sorted(models))}")
    links = sorted({link for _, facts in found.answered for link in facts["links"]})
    return judge("devices", faults, f"{', '.join(sorted(models))}; links {', '.join(links) or 'none'}")


def check_memory(found: Survey) -> Finding:
    free = {host.name: facts["memory"]["free"] for host, facts in found.answered}
    slow = [f"{name} has {size / 2**30:.0f} GiB free" for name, size in free.items() if lags(size, free.values())]
    return Finding(
        "memory", "slow" if slow else "ok", "; ".join(slow) or f"{min(free.values()) / 2**30:.0f} GiB free or more"
    )


def check_shared(found: Survey) -> Finding:
    """The run directory is the same on all hosts: a token written here is read there, and the other way round."""
    faults = []
    for i, (host, reply) in enumerate(zip(found.cluster.hosts, found.replies, strict=True)):
        if reply.problem:
            continue
        facts = reply.value["directory"]
        if not facts["shared"] or i not in found.collected:
            why = "does not have it" if not facts["exists"] else facts["problem"] or "has another one of this name"
            faults.append(f"{host.name} {why}")
    if faults:
        faults.append(
            "put the run directory on a file system that all hosts share, at the same path (--run-dir), or set "
            "train.local_checkpoints: true and copy it to each host"
        )
    return judge("shared directory", faults, "every host reads what the others write")


def check_copies(found: Survey) -> Finding:
    """Without a shared file system: this host is the first, and every host has the same data on a disk of its own."""
    own, faults = found.copies or {}, []
    for host, facts in found.answered:
        directory, first = facts["directory"], host is found.cluster.hosts[0]
        copies = directory.get("copies") or dict.fromkeys(own)
        lacks = [part for part, digest in copies.items() if digest is None]
        other = [part for part, digest in copies.items() if digest and own[part] not in (None, digest)]
        faults += [f"{host.name} lacks {', '.join(lacks)}"] if lacks else []
        faults += [f"{host.name} has another {', '.join(other)}"] if other else []
        if first and not directory["shared"]:
            faults.append(f"{host.name} is not this host: start on the first host, which keeps the log and the student")
        elif directory["shared"] and not first:
            faults.append(f"{host.name} shares the disk of this host: set train.local_checkpoints: false")
    if faults:
        faults.append("make the data on this host (--until plan), then copy the run directory to the others")
    return judge("copied directory", faults, "every host has the same recipe and data, and a disk of its own")


def check_directory(found: Survey) -> Finding:
    """Hosts share the run directory, or each has a copy, as the recipe in it says."""
    return check_shared(found) if found.copies is None else check_copies(found)


def check_disk(found: Survey) -> Finding:
    free = {
        h.name: f["directory"]["free"]
        for h, f in found.answered
        if f["directory"] and f["directory"]["free"] is not None
    }
    faults = [f"{name} has {size / 2**30:.1f} GiB free" for name, size in free.items() if size < LOW_DISK]
    speeds = {h.name: f["directory"]["speed"] for h, f in found.answered if f["directory"] and f["directory"]["speed"]}
    slow = [f"{name} writes {speed / 1e6:.0f} MB/s" for name, speed in speeds.items() if lags(speed, speeds.values())]
    if not free:
        return Finding("disk", "bad", "no host could say how much is free")
    fine = f"{min(free.values()) / 2**30:.0f} GiB free"
    fine += f", written and synced at {min(speeds.values()) / 1e6:.0f} MB/s or more" if speeds else ""
    if faults or not slow:
        return judge("disk", faults, fine)
    return Finding("disk", "slow", "; ".join(slow))


def lags(value: float, all_values: Any) -> bool:
    return value < SLOW * statistics.median(all_values)


def check_ports(found: Survey, rendezvous: Rendezvous) -> tuple[Finding, Rendezvous]:
    """Every host reaches the meeting point on the first, and a port that its neighbour has just opened.

    A rendezvous at port 0 is moved to a free one.
    """
    names, where = [host.name for host, _ in found.answered], addresses(found)
    with ExitStack() as stack:
        processes = []
        spots = [(rendezvous.address, rendezvous.port), *((address, 0) for address in where)]
        for name, spot in zip([names[0], *names], spots, strict=True):
            processes.append(start(name, PROBE, {"listen": spot}))
            stack.callback(finish, processes[-1])
        opened = [read_answer(process, PORT_SECONDS) for process in processes]
        why = opened[0].problem or opened[0].value.get("problem")
        if why:
            text = f"{names[0]} cannot listen on {rendezvous.address}:{rendezvous.port} ({why})"
            return Finding("ports", "bad", f"{text}; choose --master-addr or --master-port"), rendezvous
        rendezvous = Rendezvous(rendezvous.address, int(opened[0].value["port"]), rendezvous.interface)
        ports = [reply.value.get("port", 0) for reply in opened[1:]]
        next_one = [(i + 1) % len(names) for i in range(len(names))]
        requests = [{"connect": [(rendezvous.address, rendezvous.port), (where[j], ports[j])]} for j in next_one]
        replies = ask_all(names, PROBE, requests, PORT_SECONDS)
    faults = []
    for i, reply in enumerate(replies):
        wanted = (
            f"{names[0]} at {rendezvous.address}:{rendezvous.port}, where ranks meet",
            f"{names[next_one[i]]} at {where[next_one[i]]}, any port",
        )
        problems = reply.value.get("problems") or [reply.problem] * 2
        faults += [
            f"{names[i]} cannot connect to {to} ({why})" for to, why in zip(wanted, problems, strict=True) if why
        ]
    if faults:
        faults.append("open the hosts' firewalls to each other, or choose another network by --interface")
    at = f"{rendezvous.address}:{rendezvous.port} on {rendezvous.interface}"
    text = f"ranks meet at {at}, and reach each other on any port"
    return judge("ports", faults, text), rendezvous


BEFORE_TRAINING: tuple[Callable[[Survey], Finding], ...] = (check_versions, check_directory, check_devices, check_disk)


def require_ready(found: Survey) -> Rendezvous:
    """Where the ranks of a cluster meet. Raises InputError with a line for each check that is bad."""
    bad = [check_reached(found)]
    if found.answered:
        bad += [check(found) for check in BEFORE_TRAINING]
    refuse(bad)
    ports, rendezvous = check_ports(found, meet(found))
    refuse([ports])
    return rendezvous


def judge_here(found: Survey) -> None:
    """Raise InputError if this host, the only one, has too few GPUs or too little room."""
    refuse([check(found) for check in (check_reached, check_devices, check_disk)])


def refuse(findings: Sequence[Finding]) -> None:
    """Raise InputError with a line for each finding that is bad."""
    bad = [f"{finding.check}: {finding.text}" for finding in findings if finding.state == "bad"]
    if bad:
        raise InputError("\n".join(bad))


def meet(found: Survey) -> Rendezvous:
    """Where ranks meet, by what the user says or else at the first host's address; port 0 is still to be chosen."""
    cluster = found.cluster
    return Rendezvous(cluster.address or addresses(found)[0], cluster.port or 0, common_interface(found))
