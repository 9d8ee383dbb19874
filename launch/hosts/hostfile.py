"""Hostfiles and choices of hosts, read strictly: DeepSpeed hands what stands in them to ssh, pdsh or mpirun.

Its own reader takes any word for a host's name, and whatever follows ``slots=N`` for nothing. What passes here is read
by both alike.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest

LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
NAME = re.compile(rf"{LABEL}(?:\.{LABEL})*")
SLOTS = re.compile(r"slots=([0-9]+)")
LONGEST_NAME = 253  # characters, RFC 1035
MOST_SLOTS = 1024
FORM = "expected `host slots=N`, such as `worker-1 slots=8`"


@dataclass(frozen=True)
class Host:
    """A host and the devices that ranks use there, one rank each."""

    name: str
    slots: tuple[int, ...]


def read_hostfile(path: Path) -> list[Host]:
    """The hosts of a file with a line ``host slots=N`` each; ``#`` begins a comment.

    Raises InputError naming file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such hostfile; write one line `host slots=N` for each host") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot read the hostfile ({error})") from error
    hosts: list[Host] = []
    lines: dict[str, int] = {}  # name as compared -> line
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{path}, line {number}"
        if "\r" in line:  # in a comment too: DeepSpeed's reader begins a new line there
            raise InputError(f"{where}: ends as lines do on Windows; convert the file (`sed -i 's/\\r$//'`)")
        words = before_comment(line, where)
        if not words:
            continue
        if len(words) != 2:
            raise InputError(f"{where}: {FORM}, got {line.strip()!r}")
        name = check_name(words[0], where)
        same = comparable(name)
        if same in lines:
            raise InputError(f"{where}: host {name} stands already in line {lines[same]}; give each host one line")
        lines[same] = number
        hosts.append(Host(name, tuple(range(read_slots(words[1], where)))))
    if not hosts:
        raise InputError(f"{path}: names no host; write one line `host slots=N` for each")
    return hosts


def before_comment(line: str, where: str) -> list[str]:
    """The words of a line before its comment, which begins with ``#`` at the start or after a space."""
    text = re.split(r"(?:^|[ \t])[ \t]*#", line, maxsplit=1)[0]
    if not (text.isascii() and text.replace("\t", " ").isprintable()):
        raise InputError(f"{where}: holds a character that no host's name can hold; {FORM}")
    return text.split()


def check_name(name: str, where: str) -> str:
    """The name of a host or its address. Raises InputError if it is neither, or more than that."""
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        address = None
    if address is not None and not getattr(address, "scope_id", None):
        return name
    numeric = all(part.isdecimal() for part in name.split("."))  # a mistyped address
    if address is not None or numeric or len(name) > LONGEST_NAME or not NAME.fullmatch(name):
        raise InputError(
            f"{where}: {name!r} is no name or address of a host (letters, digits, '-', '_' and '.', or IPv4 or IPv6; "
            "a user or a port belongs into ~/.ssh/config)"
        )
    return name


def read_slots(word: str, where: str) -> int:
    match = SLOTS.fullmatch(word)
    if match is None:
        raise InputError(f"{where}: {FORM}, got {word!r} after the host")
    if not match[1].lstrip("0"):
        raise InputError(f"{where}: slots=0 gives the host nothing to do; delete the line, or comment it out with #")
    if len(match[1]) > 4 or int(match[1]) > MOST_SLOTS:
        raise InputError(f"{where}: {word} is more than {MOST_SLOTS} ranks on one host; slots are its devices")
    return int(match[1])


def comparable(name: str) -> str:
    """Equal for two ways to write one host's name."""
    try:
        return str(ipaddress.ip_address(name))
    except ValueError:
        return name.lower()


def choose_hosts(hosts: Sequence[Host], include: str = "", exclude: str = "") -> list[Host]:
    """The hosts and slots that ``include`` names, or all but those that ``exclude`` names, in the hostfile's order.

    Both read ``HOST[:SLOT,...][@HOST...]``; a host without slots means all of them. Raises InputError.
    """
    if include and exclude:
        raise InputError("--include and --exclude exclude each other; give one of them")
    if include:
        named = read_choice(include, hosts, "--include")
        return [Host(host.name, named[host.name]) for host in hosts if host.name in named]
    if not exclude:
        return list(hosts)
    named = read_choice(exclude, hosts, "--exclude")
    left = [Host(h.name, tuple(slot for slot in h.slots if slot not in named.get(h.name, ()))) for h in hosts]
    if not any(host.slots for host in left):
        raise InputError(f"--exclude {exclude}: leaves no host")
    return [host for host in left if host.slots]


def read_choice(text: str, hosts: Sequence[Host], option: str) -> dict[str, tuple[int, ...]]:
    """Host -> chosen slots, all of which it has."""
    known = {host.name: host.slots for host in hosts}
    found: dict[str, tuple[int, ...]] = {}
    for part in text.split("@"):
        name, slots = part, ""
        if part not in known:  # an IPv6 address has colons of its own
            name, colon, slots = part.rpartition(":")
            if not colon:
                name = part
            if name not in known:
                raise InputError(f"{option} {text}: the hostfile names no host {name!r}{nearest(name, list(known))}")
            if not re.fullmatch(r"[0-9]{1,4}(?:,[0-9]{1,4})*", slots):
                raise InputError(f"{option} {text}: expected HOST[:SLOT,...][@HOST...], such as worker-1:0,1@worker-2")
        if name in found:
            raise InputError(f"{option} {text}: names {name} twice; write its slots together, as in {name}:0,1")
        chosen = tuple(sorted({int(slot) for slot in slots.split(",")})) if slots else known[name]
        missing = [slot for slot in chosen if slot not in known[name]]
        if missing:
            raise InputError(f"{option} {text}: {name} has slots 0 to {len(known[name]) - 1}, not {missing[0]}")
        found[name] = chosen
    return found


def format_hostfile(hosts: Sequence[Host]) -> str:
    """A hostfile for DeepSpeed with just these hosts, each with all slots up to its last chosen one."""
    return "".join(f"{host.name} slots={host.slots[-1] + 1}\n" for host in hosts)
