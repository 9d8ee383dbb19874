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
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore

from tracestill.trainer.ranks.console import say
from tracestill.trainer.ranks.join_ranks import LAUNCH, is_alone

CAME, ALL = "came", "all"  # keys: how many ranks have come, and that all have
AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # "True": torchrun's own process keeps the store, on all interfaces
RETRY_SECONDS = 1.0  # between two questions to a name server that does not answer


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
    here = f"{address}:{port}, where ranks meet"
    began, patience = time.monotonic(), timedelta(seconds=wait)
    if rank == 0:
        store = keep_store(address, port, patience, alone=is_alone(environment))
    else:
        try:
            store = TCPStore(address, port, is_master=False, timeout=patience)
        except RuntimeError as error:  # torch's DistNetworkError is one
            raise NotMet(f"rank {rank} found no rank 0 at {here}, {after(began)} ({cause(error)})") from error
    own = PrefixStore(prefix(environment.get(LAUNCH, "")), store)
    try:
        own.set(f"rank-{rank}", socket.gethostname())
        if own.add(CAME, 1) == ranks:
            own.set(ALL, "1")
        own.wait([ALL], patience)
    except RuntimeError as error:
        raise NotMet(f"rank {rank} gave up waiting at {here}, {after(began)}: {missing(own, ranks)}") from error
    return own


def after(began: float) -> str:
    """How long it took, in words: a failure may come at once."""
    return f"after {time.monotonic() - began:.1f} s"


def cause(error: Exception) -> str:
    """The first line of what torch says."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


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


def keep_store(address: str, port: int, patience: timedelta, *, alone: bool) -> TCPStore:
    """The store in this process. Raises NotMet if it cannot be had at ``address``."""
    here = f"{address}:{port}, where ranks meet"
    try:
        listener = listen(address, port, alone=alone, wait=patience.total_seconds())
    except OSError as error:
        raise NotMet(f"rank 0 cannot listen on {here} ({error.strerror or error})") from error
    if listener is None:
        why = f"{address} does not say for certain at which address of this host the others look for it"
        say(f"warning: the meeting point listens on all interfaces: {why}", err=True)
    handle = None if listener is None else listener.detach()  # the store closes it
    how: dict[str, Any] = {"timeout": patience, "wait_for_workers": False, "master_listen_fd": handle}
    try:
        return TCPStore(address, port, is_master=True, **how)
    except RuntimeError as error:  # it also connects to itself by this address
        raise NotMet(f"rank 0 cannot keep the store at {here} ({cause(error)})") from error


def listen(address: str, port: int, *, alone: bool, wait: float = 0.0) -> socket.socket | None:
    """A socket bound to the one address of this host at which all ranks look for it; None if that is not certain.

    A literal address is, if this host has it. A name may lead to several addresses here, and to a single one of them on
    other hosts; to the loopback interface here (in /etc/hosts, of one's own name), and to the network there. So with
    ranks on other hosts (not ``alone``) it must lead to exactly one address that others can reach; ranks of one host
    see the same addresses as this process, in the same order. Raises OSError if the port is taken, if the
    name is not known, and if it cannot be looked up for ``wait`` seconds.
    """
    places, sure = look_up(address, port, wait), alone or is_literal(address)
    bound = (one for place in places if sure or is_reached(place[1][0]) if (one := bind(*place)) is not None)
    if sure:
        return next(bound, None)
    found = list(bound)
    if len(found) == 1:
        return found[0]
    for one in found:
        one.close()
    return None


def look_up(address: str, port: int, wait: float) -> list[tuple[int, Any]]:
    """Family and socket address of each address that a name has; asks for ``wait`` seconds while no answer comes."""
    deadline = time.monotonic() + wait
    while True:
        try:
            found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys((int(family), place) for family, _, _, _, place in found))
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or time.monotonic() >= deadline:
                raise
        time.sleep(min(RETRY_SECONDS, max(0.0, deadline - time.monotonic())))


def bind(family: int, place: Any) -> socket.socket | None:
    """A socket at an address; None if this host does not have it, or not this kind of address."""
    with contextlib.ExitStack() as stack:
        try:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise
            return None
        stack.pop_all()
        return listener


def is_literal(address: str) -> bool:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return False
    return True


def is_reached(address: str) -> bool:
    """Whether other hosts can reach an own address by itself, without the name of an interface."""
    found = ipaddress.ip_address(address.partition("%")[0])
    return not (found.is_loopback or found.is_link_local)
