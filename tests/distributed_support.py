"""Starts worker scripts as real processes: through DeepSpeed's launcher, or one alone without it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")


def environment() -> dict[str, str]:
    """The environment of a worker: CPU, one thread, nothing of a launcher's, tests' helpers importable."""
    kept = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    return kept | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(TESTS)}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_workers(
    script: Path, *arguments: object, ranks: int = 0, timeout: float = 280, fails: bool = False, code: int | None = None
) -> str:
    """Run ``script`` on ``ranks`` processes under the launcher, or with 0 as one process without it.

    Returns what it printed. Fails, showing that, if its exit status is not as expected (``code``; None: any that says
    whether it fails) or the time is up; no process outlives the call.
    """
    command = [sys.executable]
    if ranks:
        command += ["-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", str(free_port())]
    command += [str(script), *map(str, arguments)]
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(
            f"{script.name} on {ranks} ranks took over {timeout} s:\n{process.communicate()[0][-3000:]}"
        ) from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    expected = (process.returncode != 0) == fails if code is None else process.returncode == code
    assert expected, f"{script.name} exited with {process.returncode}:\n{printed[-5000:]}"
    return printed
