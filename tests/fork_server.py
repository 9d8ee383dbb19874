"""A process that has imported what workers import, and forks ranks from itself: a rank starts in 0.1 s and not in 8.

    fork_server.py SOCKET    started by distributed_support.py, which sends one request at a time, a line of JSON

A rank is what a new process would be: its own session, working directory, output, arguments and state of DeepSpeed and
gloo. What differs is that modules are there already, and that ranks have the seed of Python's hashes in common. The
server must have one thread: others are lost in a fork, with whatever they had locked.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
import time
import traceback
from typing import Any

MODULES = (
    *("tracestill.trainer.train", "tracestill.trainer.evaluate", "pyarrow.parquet", "safetensors.torch", "peft"),
    *("transformers.models.llama.modeling_llama", "transformers.models.t5.modeling_t5", "torch.optim.swa_utils"),
)
# As DeepSpeed's launcher does when a rank has failed: others may come to their own end, then SIGTERM, then SIGKILL.
OWN_END_SECONDS = 1.0
TERM_SECONDS = 30.0
PR_SET_PDEATHSIG = 1


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def answer(connection: socket.socket, **values: object) -> None:
    connection.sendall(json.dumps(values).encode() + b"\n")


def serve(connection: socket.socket) -> tuple[dict[str, Any], int] | None:
    """Until the other side is gone. In a process that is to be a rank: what was asked for, and the rank."""
    for name in MODULES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # the garbage collector would copy the pages of everything that ranks share
    answer(connection, threads=threads())
    with connection.makefile() as lines:
        for line in lines:
            request = json.loads(line)
            ranks: dict[int, int] = {}  # of pid
            for rank in range(max(1, request["ranks"])):
                pid = os.fork()
                if pid == 0:
                    return request, rank
                ranks[pid] = rank
            answer(connection, **watch(ranks, connection, time.monotonic() + request["timeout"]))
    return None


def watch(ranks: dict[int, int], connection: socket.socket, deadline: float) -> dict[str, Any]:
    """Wait for all ranks; the exit code of the first that failed (0: none did), and whether time was up.

    No rank outlives it, nor do processes that a rank has left behind in its group.
    """
    alive = {pid: os.pidfd_open(pid) for pid in ranks}
    code, late, failed_at, signalled = 0, False, 0.0, 0
    try:
        while alive:
            now = time.monotonic()
            if now >= deadline:
                late = True
                break
            wake = deadline
            if code:
                due = failed_at + (TERM_SECONDS if signalled else OWN_END_SECONDS)
                if now >= due and signalled:
                    break
                if now >= due:
                    signalled = signal.SIGTERM
                    for pid in alive:
                        end(pid, signalled)
                    continue
                wake = min(deadline, due)
            ready, _, _ = select.select([*alive.values(), connection], [], [], wake - now)
            if connection in ready:  # nobody sends before the answer: the other side is gone
                break
            for pid in [pid for pid, handle in alive.items() if handle in ready]:
                os.close(alive.pop(pid))
                found = reap(pid)
                if found and not code:
                    code, failed_at = found, time.monotonic()
    finally:
        for pid, handle in alive.items():
            os.close(handle)
            end(pid, signal.SIGKILL)
            reap(pid)
    return {"code": code, "late": late}


def end(pid: int, number: int) -> None:
    """Signal a rank and its group; it may not have come so far as to have one."""
    for send in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError):
            send(pid, number)


def reap(pid: int) -> int:
    """The exit code of a process, whose group is killed while its number cannot be another's yet."""
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def become(request: dict[str, Any], rank: int) -> None:
    """Be a process that runs a script, with what a launcher tells a rank."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # when the server dies
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
    os.environ.clear()
    os.environ.update(request["environment"])
    script, ranks = request["script"], request["ranks"]
    words = []
    if ranks:
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_SIZE": ranks, "CROSS_RANK": 0}
        own |= {"CROSS_SIZE": 1, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": request["port"]}
        own["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(ranks)))
        os.environ.update({name: str(value) for name, value in own.items()})
        words = [f"--local_rank={rank}"]
    sys.argv = [script, *words, *request["arguments"]]
    sys.path[0] = os.path.dirname(script)
    if "numpy" in sys.modules:  # Python's own generator is seeded again by the fork
        sys.modules["numpy"].random.seed()
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        asked = serve(opened)
    if asked is not None:
        become(*asked)
