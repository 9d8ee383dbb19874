"""Hosts for tests: network namespaces joined by a bridge, each with an sshd of its own and keys made for the test.

They share files, processes and users with this machine, and nothing of its network. Names and addresses come from the
process id, so several test runs can stand beside each other; the machine's own routes and firewall are not touched.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

NEEDED = ("ip", "sshd", "ssh", "ssh-keygen", "pdsh")
INTERFACE = "e0"


def why_impossible() -> str:
    """Why no such hosts can be made here; empty if they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in NEEDED if find(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (apt-get install iproute2 openssh-server pdsh)"
    probe = f"ts{os.getpid()}p"
    made = subprocess.run([find("ip"), "netns", "add", probe], capture_output=True, text=True, check=False)
    subprocess.run([find("ip"), "netns", "del", probe], capture_output=True, check=False)
    return f"no network namespace can be made: {made.stderr.strip()}" if made.returncode else ""


def find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def ip(*words: object) -> None:
    subprocess.run([str(find("ip")), *map(str, words)], check=True, capture_output=True, text=True)


def named(name: str, command: list[str]) -> list[str]:
    """A command that takes ``name`` for the name of its machine, and so do its children."""
    return ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', name, *command]


class Hosts:
    """``count`` hosts called ``a``, ``b``, ``c``; commands run on ``a``."""

    def __init__(self, folder: Path, count: int) -> None:
        self.folder = folder
        tag = f"{os.getpid() % 46656:x}"
        self.bridge, self.names = f"tsbr{tag}", [chr(ord("a") + i) for i in range(count)]
        self.spaces = {name: f"ts{tag}{name}" for name in self.names}
        net = f"10.{64 + os.getpid() // 256 % 64}.{os.getpid() % 256}"
        self.addresses = {name: f"{net}.{i + 1}" for i, name in enumerate(self.names)}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.config = folder / "ssh_config"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("user", "host", "stranger"):
            keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / name)]
            subprocess.run(keygen, check=True, capture_output=True)
        shutil.copy(self.folder / "user.pub", self.folder / "authorized_keys")
        host_key = (self.folder / "host.pub").read_text().rsplit(" ", 1)[0]
        lines = [f"{name},{address} {host_key}" for name, address in self.addresses.items()]
        (self.folder / "known_hosts").write_text("\n".join(lines) + "\n")
        self.write_config()
        ip("netns", "add", f"{self.bridge}n")  # the bridge has a namespace too: nothing appears in the machine's own
        ip("-n", f"{self.bridge}n", "link", "add", self.bridge, "type", "bridge")
        ip("-n", f"{self.bridge}n", "link", "set", self.bridge, "up")
        for name, space in self.spaces.items():
            self.write_names(space)
            ip("netns", "add", space)
            ip("-n", space, "link", "set", "lo", "up")
            ip("-n", space, "link", "add", INTERFACE, "type", "veth", "peer", "name", f"v{name}")
            ip("-n", space, "link", "set", f"v{name}", "netns", f"{self.bridge}n")
            ip("-n", f"{self.bridge}n", "link", "set", f"v{name}", "master", self.bridge, "up")
            ip("-n", space, "address", "add", f"{self.addresses[name]}/24", "dev", INTERFACE)
            ip("-n", space, "link", "set", INTERFACE, "up")
            self.start_sshd(name)

    def write_names(self, space: str) -> None:
        """What stands in /etc/hosts there. Without a name server: looking one up in vain takes seconds."""
        own = Path("/etc/netns") / space  # `ip netns exec` lays these files over those of the machine
        own.mkdir(parents=True)
        (own / "hosts").write_text("".join(f"{a} {n}\n" for n, a in self.addresses.items()) + "127.0.0.1 localhost\n")
        (own / "resolv.conf").write_text("")
        (own / "nsswitch.conf").write_text("hosts: files\n")

    def write_config(self, key: str = "user") -> None:
        """The ssh settings of the commands that the tests run; ``key`` is the one they show."""
        hosts = [f"Host {name}\n  HostName {address}\n" for name, address in self.addresses.items()]
        self.config.write_text(
            "".join(hosts) + f"Host *\n  User root\n  IdentityFile {self.folder / key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.folder / 'known_hosts'}\n  GlobalKnownHostsFile /dev/null\n  LogLevel ERROR\n"
        )

    def start_sshd(self, name: str, more: str = "", *, hide: Path | None = None) -> None:
        """``more`` goes into its configuration; instead of the folder ``hide`` the host sees an empty one."""
        config = self.folder / f"sshd_{name}"
        config.write_text(
            f"ListenAddress {self.addresses[name]}:22\nHostKey {self.folder / 'host'}\nPidFile none\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nStrictModes no\nPermitRootLogin yes\n"
            "PasswordAuthentication no\nKbdInteractiveAuthentication no\nUsePAM no\nMaxStartups 64:30:128\nUseDNS no\n"
            + more
        )
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it
        command = [str(find("sshd")), "-D", "-e", "-f", str(config)]
        if hide:  # `ip netns exec` gives each of its commands a mount namespace of its own
            command = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(hide), *command]
        command = self.on(name, command)
        with (self.folder / f"sshd_{name}.log").open("ab") as log:
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 20
        probe = f"import socket; socket.create_connection(({self.addresses[name]!r}, 22), 1)"
        while subprocess.run(self.on(name, [sys.executable, "-c", probe]), capture_output=True, check=False).returncode:
            assert time.monotonic() < deadline, (self.folder / f"sshd_{name}.log").read_text()
            assert self.daemons[name].poll() is None, (self.folder / f"sshd_{name}.log").read_text()
            time.sleep(0.1)

    def stop_sshd(self, name: str) -> None:
        """The host is down, as far as others can see."""
        daemon = self.daemons.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait()

    def plug(self, name: str, state: str) -> None:
        """Pull (``down``) or put back (``up``) the cable of a host: packets vanish, and nobody is told."""
        ip("-n", f"{self.bridge}n", "link", "set", f"v{name}", state)

    def on(self, name: str, command: list[str]) -> list[str]:
        return [str(find("ip")), "netns", "exec", self.spaces[name], *command]

    def environment(self, **more: str) -> dict[str, str]:
        dropped = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "PYTHONPATH")
        kept = {key: value for key, value in os.environ.items() if key not in dropped}
        return kept | {"PDSH_SSH_ARGS_APPEND": f"-F {self.config}", "DS_ACCELERATOR": "cpu", "COLUMNS": "200", **more}

    def run(
        self, *command: object, cwd: Path | None = None, seconds: float = 200, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on ``a``."""
        process = subprocess.Popen(
            self.on(self.names[0], [str(word) for word in command]),
            cwd=cwd or self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def hostfile(self, *names: str, slots: int = 1) -> Path:
        path = self.folder / f"hosts-{''.join(names)}-{slots}"
        path.write_text("".join(f"{name} slots={slots}\n" for name in names))
        return path

    def pids(self, name: str) -> list[int]:
        command = [str(find("ip")), "netns", "pids", self.spaces[name]]
        return [int(pid) for pid in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]

    def processes(self, name: str) -> list[str]:
        """Command lines of what runs on a host, sshd and its sessions left out."""
        lines = []
        for pid in self.pids(name):
            with contextlib.suppress(OSError):
                lines.append(Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        return [line for line in lines if line and "sshd" not in line]

    def stop(self) -> None:
        for name in list(self.daemons):
            self.stop_sshd(name)
        for space in [*self.spaces.values(), f"{self.bridge}n"]:
            found = subprocess.run(
                [str(find("ip")), "netns", "pids", space], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split():  # what a failed test left in the namespaces that it made
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            subprocess.run([str(find("ip")), "netns", "del", space], capture_output=True, check=False)
            shutil.rmtree(Path("/etc/netns") / space, ignore_errors=True)


@contextlib.contextmanager
def hosts(folder: Path, count: int) -> Iterator[Hosts]:
    made = Hosts(folder, count)
    try:
        made.start()
        yield made
    finally:
        made.stop()
