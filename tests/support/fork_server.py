"""A process that has imported what workers import, and forks ranks from itself: a rank starts in 0.1 s and not in 8.

    fork_server.py SOCKET MODULE...    started by distributed_support.py; a request is a line of JSON, one at a time

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
import warnings
from typing import Any

# As DeepSpeed's launcher does when a rank has failed: others may come to their own end, then SIGTERM, then SIGKILL.
OWN_END_SECONDS = 1.0
TERM_SECONDS = 30.0
PR_SET_PDEATHSIG = 1
ARROW = "JE_ARROW_MALLOC_CONF"  # of pyarrow's allocator, which would start a thread of its own


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def answer(connection: socket.socket, **values: object) -> None:
    connection.sendall(json.dumps(values).encode() + b"\n")


def serve(connection: socket.socket, modules: list[str]) -> tuple[dict[str, Any], int] | None:
    """Until the other side is gone. In a process that is to be a rank: what was asked for, and the rank."""
    os.environ[ARROW] = "background_thread:false"
    gc.disable()
    for name in modules:
        importlib.import_module(name)
    del os.environ[ARROW]
    gc.collect()
    gc.enable()
    gc.freeze()  # the garbage collector would copy the pages of everything that ranks share
    answer(connection, threads=threads())
    with connection.makefile() as lines:
        for line in lines:
            request = json.loads(line)
            ranks = []
            for rank in range(max(1, request["ranks"])):
                pid = os.fork()
                if pid == 0:
                    return request, rank
                ranks.append(pid)
            answer(connection, **watch(ranks, connection, time.monotonic() + request["timeout"]))
    return None


def watch(ranks: list[int], connection: socket.socket, deadline: float) -> dict[str, Any]:
    """Wait for all ranks; the exit code of the first that failed (0: none did), and whether time was up.

    No rank outlives it, nor do processes that a rank has left behind in its group.
    """
    alive = {os.pidfd_open(pid): pid for pid in ranks}
    code, due, asked = 0, float("inf"), False  # due: when the others of a failed rank are asked to end, or made to
    while alive and (now := time.monotonic()) < deadline:
        if now >= due and asked:
            break
        if now >= due:
            for pid in alive.values():
                end(pid, signal.SIGTERM)
            due, asked = now + TERM_SECONDS, True
        ready, _, _ = select.select([*alive, connection], [], [], min(deadline, due) - now)
        if connection in ready:  # nobody sends before the answer: the other side is gone
            break
        for handle in ready:
            os.close(handle)
            found = reap(alive.pop(handle))
            if found and not code:
                code, due = found, time.monotonic() + OWN_END_SECONDS
    late = bool(alive) and not code
    for handle, pid in alive.items():
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
    """Be a process that runs a script, or a module, with what a launcher tells a rank."""
    os.setsid()
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # when the server dies
    os.chdir(request["folder"])
    output = os.open(request["output"], os.O_WRONLY | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.close(output)
    sys.stdout.reconfigure(write_through=True)  # type: ignore[union-attr]
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
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()  # a fork does that for Python's own generator only
    if script.endswith(".py"):
        sys.path[0] = os.path.dirname(script)
        runpy.run_path(script, run_name="__main__")
    else:
        del sys.path[0]  # this folder
        warnings.simplefilter("ignore", RuntimeWarning)  # it has been imported before
        runpy.run_module(script, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    with socket.socket(fileno=int(sys.argv[1])) as opened:
        asked = serve(opened, sys.argv[2:])
    if asked is not None:
        become(*asked)
