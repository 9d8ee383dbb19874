"""Several hosts as one: what the user says about them, and what they say about themselves before anything starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError, NoRoomError
from tracestill.data_pipeline.base.room import needs_room
from tracestill.launch.hosts.hostfile import Host, choose_hosts, read_hostfile
from tracestill.launch.hosts.launchers import PDSH, Launcher, check_launcher, find_launcher
from tracestill.launch.hosts.probe import FROM_LAUNCHER, digests
from tracestill.launch.hosts.remote import PROBE, Reply, ask_all, is_here
from tracestill.trainer.recipe.recipe import FOLDER, Recipe
from tracestill.trainer.recipe.run_directory import RECIPE, TRAINED_ON, RunDirectory

LOOPBACK = ("127.0.0.1", "::1")


@dataclass(frozen=True)
class Cluster:
    """Hosts to train on, and how they are reached. ``address``, ``port`` and ``interface`` of None are found out."""

    hosts: tuple[Host, ...]
    launcher: Launcher = PDSH
    address: str | None = None  # where ranks meet: of the first host
    port: int | None = None
    interface: str | None = None  # over which ranks talk, the same name on every host
    variables: tuple[str, ...] = ()  # NAME or NAME=VALUE, besides those that are passed on anyway
    elastic: bool = False  # a restart leaves out hosts that no longer answer

    @property
    def ranks(self) -> int:
        return sum(len(host.slots) for host in self.hosts)

    @property
    def here_only(self) -> bool:
        """Whether all ranks run on this host: then nothing is started through ssh."""
        return len(self.hosts) == 1 and is_here(self.hosts[0].name)

    @property
    def names(self) -> list[str]:
        return [host.name for host in self.hosts]

    @property
    def targets(self) -> list[str | None]:
        """Hosts as ``remote`` takes them: None for this one, if it is the only one."""
        return [None] if self.here_only else list(self.names)


def read_cluster(
    hostfile: Path,
    *,
    include: str = "",
    exclude: str = "",
    launcher: str = PDSH.name,
    address: str | None = None,
    port: int | None = None,
    interface: str | None = None,
    variables: Sequence[str] = (),
    elastic: bool = False,
) -> Cluster:
    """What the options of the command line say. Raises InputError naming the option, or file and line."""
    hosts = choose_hosts(read_hostfile(hostfile), include, exclude)
    cluster = Cluster(tuple(hosts), find_launcher(launcher), address, port, interface, tuple(variables), elastic)
    if not cluster.here_only:
        check_launcher(cluster)
    return cluster


@dataclass
class Survey:
    """What every host answered."""

    cluster: Cluster
    replies: list[Reply]
    collected: set[int] = field(default_factory=set)  # hosts whose token reached this one
    copies: dict[str, str | None] | None = None  # this host's, where hosts keep copies of the run directory

    @property
    def answered(self) -> list[tuple[Host, dict[str, Any]]]:
        return [(h, r.value) for h, r in zip(self.cluster.hosts, self.replies, strict=True) if not r.problem]

    @property
    def gpus(self) -> bool:
        """Whether ranks run on GPUs: any host has one, and the user has not said cpu."""
        return os.environ.get("DS_ACCELERATOR") != "cpu" and any(facts.get("gpus") for _, facts in self.answered)


def survey(cluster: Cluster, directory: Path, recipe: Recipe | None = None, *, write: int = 0) -> Survey:
    """Ask every host about itself and about ``directory``, into which each writes ``write`` bytes to time it. Whether
    they share it or keep copies is said by ``recipe``, or else by that of the run in it.

    Raises InputError if this host cannot write there, or holds a run there whose recipe is bad.
    """
    parts = None if cluster.here_only else copied_parts(directory, recipe)
    with shared_token(directory) as (place, token):
        requests = [
            {"directory": str(place), "token": token, "reply": f"from-{i}", "write": write, "copies": parts}
            for i in range(len(cluster.hosts))
        ]
        found = Survey(cluster, ask_all(cluster.targets, PROBE, requests))
        found.copies = None if parts is None else digests(directory, parts)
        for i in range(len(cluster.hosts)):
            with contextlib.suppress(OSError):
                if (place / token / f"from-{i}").read_text(encoding="utf-8") == token:
                    found.collected.add(i)
    return found


def copied_parts(directory: Path, recipe: Recipe | None = None) -> list[str] | None:
    """What of a run every host needs a copy of, as paths below its directory. None if the hosts are to share it: the
    recipe does not say ``train.local_checkpoints``, or there is no run yet. It is that of the run if none is given.

    Raises InputError if arms differ in that.
    """
    if not (directory / RECIPE).exists():
        return None
    run = RunDirectory(directory, recipe) if recipe else RunDirectory.open(directory)
    every = {arm: run.recipe.for_arm(arm).train for arm in run.recipe.arm_names()}
    arms = {arm: train for arm, train in every.items() if train.trains}
    if len({train.local_checkpoints for train in arms.values()}) > 1:
        raise InputError(f"{directory / RECIPE}: train.local_checkpoints must be the same for all arms")
    if not any(train.local_checkpoints for train in arms.values()):
        return None
    found = [RECIPE, *([FOLDER] if (directory / FOLDER).exists() else [])]
    for arm, train in arms.items():
        stages = (*TRAINED_ON, *(["sample"] if train.held_out_questions else []))
        read = [*(run.stage(arm, stage) for stage in stages), *run.scores_read(arm).values()]
        found += [str(path.relative_to(run.root)) for path in read]
    return list(dict.fromkeys(found))


def what_is_left(cluster: Cluster, directory: Path) -> Cluster:
    """The cluster without the hosts that do not answer. Raises InputError if none does."""
    answered = survey(cluster, directory).answered
    if not answered:
        raise InputError(f"no host answers any more, of {', '.join(cluster.names)}")
    return replace(cluster, hosts=tuple(host for host, _ in answered))


@contextlib.contextmanager
def shared_token(directory: Path) -> Iterator[tuple[Path, str]]:
    """Meanwhile a folder with a token lies in ``directory``, or in its nearest ancestor that exists."""
    place = directory.absolute()
    while not place.is_dir():
        place = place.parent
    token = f".tracestill-{uuid.uuid4().hex}"
    try:
        with needs_room(place, "nothing was started"):
            (place / token).mkdir(mode=0o700)
            (place / token / FROM_LAUNCHER).write_text(token, encoding="utf-8")
    except NoRoomError:
        shutil.rmtree(place / token, ignore_errors=True)
        raise
    except OSError as error:
        shutil.rmtree(place / token, ignore_errors=True)
        raise InputError(f"{place}: cannot be written to ({error.strerror}); choose another --run-dir") from error
    try:
        yield place, token
    finally:
        shutil.rmtree(place / token, ignore_errors=True)


@dataclass(frozen=True)
class Rendezvous:
    """Where ranks meet, and over which interface they talk."""

    address: str
    port: int
    interface: str


def address_of(cluster: Cluster, facts: dict[str, Any], host: Host) -> str:
    """The address of a host on the network that ranks use. Raises InputError if it has none there."""
    if cluster.interface is None:
        if facts["reached"] is None or facts["reached"] in LOOPBACK:
            raise InputError(
                f"{host.name}: is reached over the loopback interface, where no other host can meet it; write the name "
                "that other hosts know it by into the hostfile, or give --interface"
            )
        return str(facts["reached"])
    found = facts["interfaces"].get(cluster.interface)
    if found is None or not found["addresses"]:
        names = ", ".join(name for name in facts["interfaces"] if name != "lo")
        raise InputError(
            f"--interface {cluster.interface}: {host.name} has none of this name with an address ({names})"
        )
    return str(found["addresses"][0])


def interface_of(facts: dict[str, Any], address: str) -> str | None:
    return next((name for name, found in facts["interfaces"].items() if address in found["addresses"]), None)


def addresses(found: Survey) -> list[str]:
    """Each answering host's address on the network that ranks use."""
    return [address_of(found.cluster, facts, host) for host, facts in found.answered]


def common_interface(found: Survey) -> str:
    """The name of the interface that ranks use on every host. Raises InputError if the names differ."""
    if found.cluster.interface:
        return found.cluster.interface
    where = addresses(found)
    names = {h.name: interface_of(facts, a) for (h, facts), a in zip(found.answered, where, strict=True)}
    if len({*names.values()}) != 1 or None in names.values():
        listed = ", ".join(f"{host}: {name}" for host, name in names.items())
        raise InputError(f"hosts are reached over interfaces of different names ({listed}); choose one by --interface")
    return str(next(iter(names.values())))
