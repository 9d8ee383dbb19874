"""Starts worker scripts as real processes: forked from one that has imported all, or through DeepSpeed's launcher.

Forked ranks are a tenth of the work (fork_server.py). What the launcher and the start of a process do is tested where
it is the subject: entry points, the watchdog, kills, hosts.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parent
OF_A_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
SAFE_PATH = "PYTHONSAFEPATH"  # workers import what lies beside them
MODULES = [  # that workers import, or what they import: half of it would be most of the time
    *("tracestill.trainer.train", "tracestill.trainer.evaluation.evaluate"),
    *("pyarrow.parquet", "safetensors.torch", "peft"),
    *("transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5", "torch.optim.swa_utils"),
]
OF_A_TEST = "PYTEST_CURRENT_TEST"
BY_IMPORTS = ("PYTORCH_NVML_BASED_CUDA_CHECK", "TORCHINDUCTOR_CACHE_DIR")  # set by deepspeed and torch themselves
ANSWER_SECONDS = 60  # that the server may take beyond a request's own


def environment() -> dict[str, str]:
    """The environment of a worker: CPU, one thread, nothing of a launcher's, tests' helpers importable."""
    kept = {key: value for key, value in os.environ.items() if key not in (*OF_A_LAUNCHER, SAFE_PATH)}
    return kept | {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(TESTS)}


def read_at_import() -> dict[str, str]:
    """The part of it that modules may have read when they were imported: all but pytest's note of the test, and what
    their import sets, in this process as in the server."""
    return {key: value for key, value in environment().items() if key not in (OF_A_TEST, *BY_IMPORTS)}


AS_IMPORTED = read_at_import()  # before any test has changed it


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_workers(
    script: Path,
    *arguments: object,
    ranks: int = 0,
    timeout: float = 280,
    fails: bool = False,
    code: int | None = None,
    launcher: bool = False,
) -> str:
    """Run ``script`` on ``ranks`` processes, or with 0 as one process that nobody launched.

    Ranks are forked from a process that has imported everything; with ``launcher``, and where a test has changed the
    environment, they are new ones. Returns what they printed. Fails, showing that, if the exit status is not as
    expected (``code``; None: any that says whether it fails) or the time is up; no process outlives the call.
    """
    words = [str(script), *map(str, arguments)]
    forked = not launcher and can_fork()
    found, late, printed = (fork if forked else spawn)(words, ranks, timeout)
    if late:
        raise AssertionError(f"{script.name} on {ranks} ranks took over {timeout} s:\n{printed[-3000:]}")
    expected = (found != 0) == fails if code is None else found == code
    assert expected, f"{script.name} exited with {found}:\n{printed[-5000:]}"
    return printed


def can_fork() -> bool:
    """Whether forked ranks are what new processes would be."""
    return read_at_import() == AS_IMPORTED and server().forks


def spawn(words: list[str], ranks: int, timeout: float) -> tuple[int, bool, str]:
    """Exit code, whether time was up, and what was printed, of new processes; ranks through DeepSpeed's launcher."""
    command = [sys.executable]
    if ranks:
        command += ["-m", "deepspeed.launcher.runner", "--num_gpus", str(ranks), "--master_port", str(free_port())]
    process = subprocess.Popen(
        command + words,
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
        return 0, True, process.communicate()[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return process.returncode, False, printed


def fork(
    words: list[str], ranks: int, timeout: float, variables: Mapping[str, str] | None = None
) -> tuple[int, bool, str]:
    """The same of forked ones, of a script or a module; ``variables`` are set besides."""
    with tempfile.NamedTemporaryFile("r", prefix="workers-", errors="backslashreplace") as output:
        request = {"script": words[0], "arguments": words[1:], "ranks": ranks, "timeout": timeout, "port": free_port()}
        request |= {"output": output.name, "folder": os.getcwd()}
        own = {key: value for key, value in (variables or {}).items() if environment().get(key) != value}
        request["environment"] = own | {key: value for key, value in environment().items() if key == OF_A_TEST}
        found = server().ask(request, timeout + ANSWER_SECONDS)
        return found["code"], found["late"], output.read()


class Server:
    """fork_server.py and the way to it. It ends, with all ranks, when this process does, however that ends."""

    def __init__(self) -> None:
        self.connection, other = socket.socketpair()
        with other:
            command = [sys.executable, str(TESTS / "fork_server.py"), str(other.fileno()), *MODULES]
            self.process = subprocess.Popen(
                command,
                env=environment(),
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                start_new_session=True,  # an interrupt from the keyboard is this process's to handle
            )
        self.lines = self.connection.makefile()
        self.forks = self.ask(None, 280)["threads"] == 1
        atexit.register(self.close)

    def ask(self, request: dict[str, Any] | None, timeout: float) -> dict[str, Any]:
        """Its answer. Whatever else happens meanwhile, an interrupt included, ends the server and all ranks."""
        try:
            self.connection.settimeout(timeout)
            if request is not None:
                self.connection.sendall(json.dumps(request).encode() + b"\n")
            line = self.lines.readline()
            assert line, f"the fork server ended with {self.process.wait(10)}"
            return json.loads(line)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        server.cache_clear()
        self.lines.close()
        self.connection.close()  # what makes it end
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@functools.cache
def server() -> Server:
    """One for this process, started when it is first needed."""
    return Server()
