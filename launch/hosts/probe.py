"""What one host says about itself: run there by ssh, prints one line of JSON. Imports neither torch nor DeepSpeed.

start_module.py tracestill.launch.hosts.probe '{"directory": "/shared/runs", "token": "…"}'

A second form listens on a port until its standard input ends, a third tries to connect; together they show whether a
firewall stands between two hosts.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.content import digest_of_file
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import digest_of, read_manifest, versions
from tracestill.trainer.ranks.cores import usable_cores

MARK = "tracestill-probe "  # before the line of JSON: a login shell may print something of its own
CONNECT_SECONDS = 3.0
LISTEN_SECONDS = 60.0  # at most, should standard input never end
BLOCK = 1 << 20  # bytes written at a time
GPU_FIELDS = ("name", "memory.total", "memory.free", "ecc.errors.uncorrected.volatile.total")
FROM_LAUNCHER = "from-launcher"  # file of the token in the shared folder


def describe(request: dict[str, Any]) -> dict[str, Any]:
    """Facts of this host. ``request`` may hold ``directory``, ``token``, ``reply`` (a file name), ``write`` (bytes),
    and ``copies``: paths below the directory, if hosts are not to share it."""
    import psutil

    memory = psutil.virtual_memory()
    # Up, whether or not the kernel has noticed the other end yet (psutil's isup): it takes a moment
    speeds = {name: stats.speed for name, stats in psutil.net_if_stats().items() if "up" in stats.flags.split(",")}
    addresses = {
        name: [a.address.partition("%")[0] for a in found if a.family in (socket.AF_INET, socket.AF_INET6)]
        for name, found in psutil.net_if_addrs().items()
    }
    connection = os.environ.get("SSH_CONNECTION", "").split()
    return {
        "name": socket.gethostname(),
        "versions": found_versions(),
        "source": source_digest(),
        "cores": usable_cores(),
        "memory": {"total": memory.total, "free": memory.available},
        "gpus": gpus(),
        "links": gpu_links(),
        "interfaces": {n: {"addresses": addresses[n], "speed": speeds[n]} for n in addresses if n in speeds},
        "reached": connection[2] if len(connection) == 4 else None,
        "directory": directory_facts(request) if request.get("directory") else None,
        "time": time.time(),  # last, so that the clocks can be compared when the line arrives
    }


def found_versions() -> dict[str, str]:
    """Versions that every rank must share."""
    found = {"python": platform.python_version(), **versions()}
    for name in ("triton", "flash-attn"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"] or ""
        if name.startswith("nvidia-nccl"):
            found["nccl"] = distribution.version
    if cuda := cuda_of_torch():
        found["cuda"] = cuda
    return found


def cuda_of_torch() -> str | None:
    """The CUDA version that torch was built for, read without importing torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    path = Path(next(iter(spec.submodule_search_locations))) / "version.py"
    match = re.search(r"^cuda\b[^=]*=\s*['\"]([\d.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return match[1] if match else None


def source_digest() -> str:
    """sha256 over this package's source files: two checkouts can bear one version."""
    root, digest = Path(__file__).parents[2], hashlib.sha256()
    for folder in ("data_pipeline", "kernels", "launch", "trainer"):
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def nvidia_smi(*arguments: str) -> str:
    """What nvidia-smi prints; empty where it is not installed or finds nothing."""
    try:
        found = subprocess.run(
            ["nvidia-smi", *arguments],
            capture_output=True,
            text=True,
            timeout=30,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return found.stdout if found.returncode == 0 else ""


def gpus() -> list[dict[str, Any]]:
    """Name, memory (MiB) and uncorrected ECC errors since the last boot (None: no ECC) of each GPU."""
    found = []
    for line in nvidia_smi(f"--query-gpu={','.join(GPU_FIELDS)}", "--format=csv,noheader,nounits").splitlines():
        words = [word.strip() for word in line.rsplit(",", len(GPU_FIELDS) - 1)]
        if len(words) == len(GPU_FIELDS):
            numbers = [int(word) if word.isdecimal() else None for word in words[1:]]
            found.append({"name": words[0], "total": numbers[0], "free": numbers[1], "ecc": numbers[2]})
    return found


def gpu_links() -> list[str]:
    """How pairs of GPUs are joined, as ``nvidia-smi topo -m`` names it (NV18, PIX, SYS, …), one entry a pair."""
    rows = [line.split() for line in nvidia_smi("topo", "-m").splitlines()]
    matrix = [row[1:] for row in rows if row and re.fullmatch(r"GPU\d+", row[0]) and "X" in row]
    return [row[j] for i, row in enumerate(matrix) for j in range(i + 1, len(matrix)) if j < len(row)]


def directory_facts(request: dict[str, Any]) -> dict[str, Any]:
    """Free bytes, whether the launcher's token is read here, how fast a file is written and synced (bytes/s), and the
    ``digests`` of this host's copies."""
    path = Path(request["directory"])
    found: dict[str, Any] = {"exists": path.is_dir(), "free": None, "shared": False, "speed": None, "problem": ""}
    try:
        found["free"] = shutil.disk_usage(path).free
        token = path / request["token"]
        if request.get("copies") is not None:
            found["copies"] = digests(path, request["copies"])
            found["shared"] = token.exists()
            if request.get("write"):
                found["speed"] = write_speed(path / f"{request['token']}-{request['reply']}", request["write"])
            return found
        found["shared"] = (token / FROM_LAUNCHER).read_text(encoding="utf-8") == request["token"]
        (token / request["reply"]).write_text(request["token"], encoding="utf-8")
        if request.get("write"):
            found["speed"] = write_speed(token / f"{request['reply']}.bytes", request["write"])
    except OSError as error:
        found["problem"] = error.strerror or str(error)
    return found


def digests(directory: Path, parts: Sequence[str]) -> dict[str, str | None]:
    """The digest of each part of a directory: a file, or what a stage wrote, as its manifest says: the ranks look at
    what it holds now. None if it is not there as a whole."""
    found: dict[str, str | None] = dict.fromkeys(parts)
    for part in parts:
        path = directory / part
        with contextlib.suppress(OSError, InputError):
            if not path.is_dir():
                found[part] = digest_of_file(path)
            elif (held := read_manifest(path)) and all((path / name).is_file() for name in held["files"]):
                found[part] = digest_of(held["files"])
    return found


def write_speed(path: Path, size: int) -> float:
    """Bytes a second with which a file of ``size`` bytes is written, synced, and then deleted."""
    block = os.urandom(BLOCK)
    started = time.perf_counter()
    try:
        with path.open("wb") as handle:
            for _ in range(max(size // BLOCK, 1)):
                handle.write(block)
            handle.flush()
            os.fsync(handle.fileno())
        return max(size // BLOCK, 1) * BLOCK / (time.perf_counter() - started)
    finally:
        path.unlink(missing_ok=True)


def listen(address: str, port: int) -> None:
    """Print the port that is listened on (0 takes a free one), then accept until standard input ends."""
    try:
        server = socket.create_server((address, port), family=family_of(address), backlog=128)
    except OSError as error:
        answer({"problem": error.strerror or str(error)})
        return
    with server:
        answer({"port": server.getsockname()[1]})
        import select

        deadline = time.monotonic() + LISTEN_SECONDS
        while time.monotonic() < deadline:
            ready, _, _ = select.select([server, sys.stdin], [], [], 1.0)
            if sys.stdin in ready:
                return
            if server in ready:
                server.accept()[0].close()


def connect(targets: list[tuple[str, int]]) -> None:
    """Print for each target why it cannot be reached; empty if it can."""
    found = []
    for address, port in targets:
        try:
            socket.create_connection((address, port), timeout=CONNECT_SECONDS).close()
            found.append("")
        except OSError as error:
            found.append(error.strerror or str(error))
    answer({"problems": found})


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer(value: dict[str, Any]) -> None:
    print(MARK + json.dumps(value), flush=True)


def main() -> None:
    request = json.loads(sys.argv[1])
    if "listen" in request:
        listen(*request["listen"])
    elif "connect" in request:
        connect(request["connect"])
    else:
        answer(describe(request))


if __name__ == "__main__":
    main()
