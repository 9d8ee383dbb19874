"""Runs a module of ours on other hosts through ssh, one argument list each, and reads the line of JSON it prints.

ssh is called as pdsh calls it, with the options in PDSH_SSH_ARGS_APPEND, so what works here works there.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tracestill.launch.hosts.probe import MARK
from tracestill.launch.hosts.start_module import module_command

PROBE, END = "tracestill.launch.hosts.probe", "tracestill.launch.hosts.end_run"
CONNECT_SECONDS = 5
ANSWER_SECONDS = 60.0
MOST_AT_ONCE = 64  # ssh processes
SSH_FAILED, NOT_FOUND = 255, 127  # exit codes


@dataclass
class Reply:
    """What a host answered, or why there is no answer."""

    value: dict[str, Any] = field(default_factory=dict)
    problem: str = ""  # one line; empty if there is an answer
    seconds: float = 0.0
    arrived: float = 0.0  # this host's time


def is_here(host: str) -> bool:
    """Whether a name or an address belongs to this host: only then can a socket be bound to it."""
    if host.lower() == socket.gethostname().lower():
        return True
    with contextlib.suppress(OSError):
        for family, way, protocol, _, address in socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM):
            with contextlib.suppress(OSError), socket.socket(family, way, protocol) as probe:
                probe.bind(address)
                return True
    return False


def command(host: str | None, module: str, argument: str) -> list[str]:
    """Arguments that run a module with an argument on a host; None: on this one, without ssh."""
    words = [*module_command(module), argument]
    if host is None:
        return words
    options = shlex.split(os.environ.get("PDSH_SSH_ARGS_APPEND", ""))
    return ["ssh", "-oBatchMode=yes", f"-oConnectTimeout={CONNECT_SECONDS}", *options, "--", host, shlex.join(words)]


def start(host: str | None, module: str, request: Mapping[str, Any]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command(host, module, json.dumps(request)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,  # an interrupt at the terminal is ours to handle
    )


def ask(host: str | None, module: str, request: Mapping[str, Any], seconds: float = ANSWER_SECONDS) -> Reply:
    """Run a module on a host and wait for its answer."""
    started = time.monotonic()
    try:
        process = start(host, module, request)
    except OSError as error:
        return Reply(problem=f"ssh cannot be started ({error.strerror}); install OpenSSH's client on this host")
    try:
        reply = read_answer(process, seconds)
    finally:
        finish(process)
    reply.seconds = time.monotonic() - started
    return reply


def ask_all(
    hosts: Sequence[str | None], module: str, requests: Sequence[Mapping[str, Any]], seconds: float = ANSWER_SECONDS
) -> list[Reply]:
    """The answers of all hosts, asked at the same time."""
    with ThreadPoolExecutor(max_workers=min(len(hosts), MOST_AT_ONCE) or 1) as pool:
        return list(pool.map(lambda pair: ask(pair[0], module, pair[1], seconds), zip(hosts, requests, strict=True)))


def read_answer(process: subprocess.Popen[bytes], seconds: float) -> Reply:
    """The line of JSON that a started module prints, as soon as it is there."""
    assert process.stdout is not None
    assert process.stderr is not None
    said = {process.stdout: b"", process.stderr: b""}
    deadline = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for stream in said:
            selector.register(stream, selectors.EVENT_READ)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                return Reply(problem=f"gave no answer within {seconds:.0f} s")
            for key, _ in selector.select(left):
                stream = next(s for s in said if s is key.fileobj)
                data = os.read(stream.fileno(), 1 << 16)
                said[stream] += data
                if not data:
                    selector.unregister(stream)
            for line in said[process.stdout].split(b"\n")[:-1]:
                if line.startswith(MARK.encode()):
                    return Reply(json.loads(line[len(MARK) :]), arrived=time.time())
    process.wait()
    error = said[process.stderr].decode(errors="replace")
    return Reply(problem=explain(process.returncode, [line.strip() for line in error.splitlines() if line.strip()]))


def explain(code: int, said: list[str]) -> str:
    """Why there is no answer, and what to do."""
    text = said[-1] if said else f"exit code {code}"
    for line in said:
        if "Permission denied" in line:
            return f"refuses the login ({line}); add this user's public key to ~/.ssh/authorized_keys there"
        if "Host key verification failed" in line or "REMOTE HOST IDENTIFICATION" in line:
            return f"is not known to ssh, or shows another key ({line}); connect once by hand and check the key"
        if "Could not resolve" in line:
            return f"cannot be found ({line}); mend the name in the hostfile"
        if "No module named" in line or "can't open file" in line:
            return f"lacks what is installed here ({line}); install the same environment at {sys.prefix}"
    if code == NOT_FOUND:
        return f"has no {sys.executable}; install the same environment at the same path"
    if code == SSH_FAILED:
        return f"cannot be reached by ssh ({text}); is it up, and does sshd run?"
    return f"failed to answer ({text})"


def finish(process: subprocess.Popen[bytes]) -> None:
    """End a module by ending its input; then end ssh, should that not be enough."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()
    process.stderr.close()
