"""Where the ranks meet: a store in rank 0's process, bound to the address at which they meet and to no other.

torch's own way there (``env://``) listens on all interfaces of the host. And everything that ranks write stands below
a prefix that follows from the launch's secret, where there is one: whoever strays into the store finds none of them.
That is no lock: torch's store knows no passwords, and whoever is let in by the network can list its keys.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import ipaddress
import os
import socket
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from tracestill.trainer.console import say
from tracestill.trainer.join_ranks import LAUNCH, is_loopback

CAME, ALL = "came", "all"  # keys: how many ranks have come, and that all have
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # "True": torchrun's own process keeps the store, on all interfaces


class NotMet(RuntimeError):
    """The ranks did not find together; the message says who is missing."""


def meet(backend: str, *, wait: float, timeout: timedelta, device: torch.device | None = None) -> None:
    """Join the other ranks, as the variables that ``join_ranks.join`` leaves name them, and make torch's group of all.

    ``wait`` is how many seconds the others may take to come, ``timeout`` how long a collective may take, ``device``
    this rank's GPU. Raises NotMet, which names the ranks that did not come.
    """
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    how: dict[str, Any] = {"timeout": timeout}
    if device is not None and ranks > 1:  # a rank alone has nobody to reach
        how["device_id"] = device
    if os.environ.get(AGENT) != "True":
        how |= {"store": assemble(rank, ranks, wait), "rank": rank, "world_size": ranks}
    dist.init_process_group(backend, **how)


def assemble(rank: int, ranks: int, wait: float, environment: Mapping[str, str] = os.environ) -> PrefixStore:
    """The store of this launch, once all of its ranks have come to it."""
    address, port = environment["MASTER_ADDR"], int(environment["MASTER_PORT"])
    here = f"{address}:{port}"
    patience = timedelta(seconds=wait)
    try:
        store = open_store(address, port, patience, keeps=rank == 0, alone=is_alone(environment))
    except RuntimeError as error:  # torch's DistNetworkError is one
        if rank == 0:
            raise NotMet(f"rank 0 cannot listen on {here}, where ranks meet ({error})") from error
        raise NotMet(f"rank {rank} found nobody at {here}, where ranks meet, for {wait:g} s: rank 0 is away") from error
    own = PrefixStore(prefix(environment.get(LAUNCH, "")), store)
    try:
        own.set(f"rank-{rank}", socket.gethostname())
        if own.add(CAME, 1) == ranks:
            own.set(ALL, "1")
        own.wait([ALL], patience)
    except RuntimeError as error:
        raise NotMet(f"rank {rank} waited at {here} for {wait:g} s: {missing(own, ranks)}") from error
    return own


def missing(store: PrefixStore, ranks: int) -> str:
    """Which ranks have not come to a store, in words."""
    try:
        away = [str(rank) for rank in range(ranks) if not store.check([f"rank-{rank}"])]
    except RuntimeError:
        return "rank 0, which kept the meeting point, has gone"
    few = ", ".join(away[:8]) + (", …" if len(away) > 8 else "")
    return f"rank(s) {few} of {ranks} did not come" if away else "some rank came twice"


def prefix(secret: str) -> str:
    """What the keys of a launch begin with: by this nobody can tell the secret."""
    return "tracestill-" + hashlib.sha256(f"meeting {secret}".encode()).hexdigest()[:32]


def is_alone(environment: Mapping[str, str]) -> bool:
    """Whether all ranks run on this host, as DeepSpeed's launcher, torchrun or the address says."""
    on_host = environment.get("LOCAL_SIZE", environment.get("LOCAL_WORLD_SIZE"))
    return on_host == environment["WORLD_SIZE"] or is_loopback(environment["MASTER_ADDR"])


def open_store(address: str, port: int, patience: timedelta, *, keeps: bool, alone: bool) -> TCPStore:
    """The way to the store; with ``keeps`` it lies in this process."""
    if not keeps:
        return TCPStore(address, port, is_master=False, timeout=patience)
    listener = listen(address, port, alone=alone)
    if listener is None:
        text = f"warning: {address} is no address of this host, so the meeting point listens on all of its interfaces"
        say(text, err=True)
    handle = None if listener is None else listener.detach()  # the store closes it
    how: dict[str, Any] = {"timeout": patience, "wait_for_workers": False, "master_listen_fd": handle}
    return TCPStore(address, port, is_master=True, **how)


def listen(address: str, port: int, *, alone: bool) -> socket.socket | None:
    """A socket bound to one of the addresses that a name has, if this host has it; None if it has none of them.

    A name may lead to the loopback interface here (in /etc/hosts, of one's own name) and to the network elsewhere: with
    ranks on other hosts (not ``alone``) that is not the place. Raises RuntimeError if the port is taken.
    """
    try:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise RuntimeError(f"{address} is not known here: {error.strerror}") from error
    for family, kind, protocol, _, place in found:
        if not alone and ipaddress.ip_address(str(place[0]).partition("%")[0]).is_loopback:
            continue
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(place)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    continue
                raise RuntimeError(error.strerror) from error
            stack.pop_all()
            return listener
    return None
