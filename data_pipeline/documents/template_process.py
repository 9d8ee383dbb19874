"""Chat templates are programs of strangers: they run in a process apart, under limits of time, memory and output.

One process serves all templates of a program, and many renderings at a time, so that a rendering costs little more
than in the program itself. A template that goes beyond its limits ends that process and nothing else.
"""

from __future__ import annotations

import atexit
import contextlib
import hashlib
import importlib.util
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents import template_worker

LIBRARIES = ("LD_LIBRARY_PATH",)  # all that it gets of the environment: some interpreters need it to start
PACKAGES = ("jinja2", "markupsafe")  # all that the process imports besides the standard library
WALL_SECONDS = 300.0  # of a whole request, if the process is stopped or the machine is too busy
SOURCE_BYTES = 1 << 20  # a template is a page or two
REQUEST_CHARACTERS = 1 << 22
SPEAKING = ("TemplateError", "TooLong")  # errors whose words say it all


@dataclass(frozen=True)
class Limits:
    """What one rendering may use."""

    cpu_seconds: int = 10
    memory_mib: int = 1024
    characters: int = 1 << 24


LIMITS = Limits()


class Asked(NamedTuple):
    """One rendering: messages, whether the prompt for the model's turn follows, and all other variables."""

    messages: Sequence[Mapping[str, str]]
    generation: bool
    context: Mapping[str, Any]


class Failed(NamedTuple):
    """What a template raised: the name and words of the error, and the template's line."""

    error: str
    text: str
    line: int | None

    def __str__(self) -> str:
        own = self.text if self.error in SPEAKING else f"{self.error}: {self.text}".rstrip(": ")
        return own + (f", line {self.line}" if self.line else "")


class Answer(NamedTuple):
    """What came of a template."""

    reads: list[str]  # variables that it reads and does not set
    known: list[str]  # names that are there in any template
    asked_for_date: bool
    results: list[str | Failed]  # of each rendering


def render(file: Path, source: str, asked: Sequence[Asked] = (), *, date: str | None = None) -> Answer:
    """Compile a template and render what is asked. ``file`` is where it stands, for errors; ``date`` (ISO) is every
    day to it.

    Raises InputError if it is no Jinja, or goes beyond the limits.
    """
    if len(source) > SOURCE_BYTES:
        raise InputError(f"{file}: a chat template of {len(source):,} characters; expected at most {SOURCE_BYTES:,}")
    results: list[str | Failed] = []
    for part in portions(asked):
        with _lock:
            found = _ask(file, source, part, date)
        if "invalid" in found:
            raise InputError(f"{file}: the chat template is not valid Jinja ({Failed(**found['invalid'])})")
        results += [one if isinstance(one, str) else Failed(**one) for one in found.pop("results")]
    return Answer(**found, results=results)


def portions(asked: Sequence[Asked]) -> list[list[Asked]]:
    """Renderings that go into one request: long texts would fill the memory of the process."""
    found: list[list[Asked]] = [[]]
    size = 0
    for one in asked:
        own = sum(len(text) for message in one.messages for text in message.values())
        if found[-1] and size + own > REQUEST_CHARACTERS:
            found.append([])
            size = 0
        found[-1].append(one)
        size += own
    return found


@dataclass
class _Process:
    """The process that is there, and the templates that it knows."""

    running: subprocess.Popen[bytes]
    limits: Limits
    known: set[str] = field(default_factory=set)


_lock = threading.Lock()
_process: _Process | None = None


def _ask(file: Path, source: str, asked: Sequence[Asked], date: str | None) -> dict[str, Any]:
    key = hashlib.sha256(f"{date}\n{source}".encode(errors="surrogatepass")).hexdigest()
    process = _started()
    request: dict[str, Any] = {"key": key, "renders": [list(one) for one in asked]}
    if key not in process.known:
        request |= {"source": source, "date": date}
    try:
        found = _exchange(process.running, json.dumps(request).encode() + b"\n")
    except BaseException:  # an interrupt as well: what is still to come would be taken for another answer
        stop()
        raise
    if found is None:
        where = f"on one of {len(asked):,} conversations" if asked else "while it is compiled"
        raise InputError(f"{file}: the chat template {_ended(process)}, {where}; give the tokenizer another one")
    if "invalid" not in found:
        process.known.add(key)
    return found


def _exchange(running: subprocess.Popen[bytes], request: bytes) -> dict[str, Any] | None:
    """The answer to a request; None if the process ended, or took too long."""
    end = time.monotonic() + WALL_SECONDS
    return _read(running, end) if _write(running, request, end) else None


def _write(running: subprocess.Popen[bytes], request: bytes, end: float) -> bool:
    """Whether the process took all of a request before ``end`` (of ``time.monotonic``)."""
    assert running.stdin is not None
    pipe, left = running.stdin.fileno(), memoryview(request)
    while left:
        if not _ready(pipe, select.POLLOUT, end):
            return False
        with contextlib.suppress(BlockingIOError):  # there was less room than a pipe writes at once
            try:
                left = left[os.write(pipe, left) :]
            except BrokenPipeError:
                return False
    return True


def _read(running: subprocess.Popen[bytes], end: float) -> dict[str, Any] | None:
    """The next line of the process; None if there is none before ``end``."""
    assert running.stdout is not None
    pipe = running.stdout.fileno()
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):  # JSON has no line break of its own
        if not _ready(pipe, select.POLLIN, end):
            return None
        parts.append(os.read(pipe, 1 << 20))
        if not parts[-1]:
            return None
    return json.loads(b"".join(parts))


def _ready(pipe: int, event: int, end: float) -> bool:
    """Wait until a pipe can be used. Not by ``select``, which takes no descriptor from 1,024 on."""
    poll = select.poll()
    poll.register(pipe, event)
    return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))


def _ended(process: _Process) -> str:
    """Why there was no answer; the process is gone then."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.running.wait(1)
    code, limits = process.running.poll(), process.limits
    stop()
    if code is None:
        return f"does not end within {WALL_SECONDS:.0f} s"
    if code == -signal.SIGXCPU:
        return f"computes for more than {limits.cpu_seconds} s of the CPU"
    why = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"ended the process that renders it ({why}; it may use {limits.memory_mib:,} MiB)"


def _started() -> _Process:
    global _process
    if _process is not None and (_process.running.poll() is not None or _process.limits != LIMITS):
        stop()
    if _process is None:
        specs = [importlib.util.find_spec(name) for name in PACKAGES]
        path = [str(Path(spec.origin).parents[1]) for spec in specs if spec is not None and spec.origin]
        setting = {"path": path, "limits": asdict(LIMITS)}
        words = [sys.executable, "-I", "-S", str(template_worker.__file__), json.dumps(setting)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        known = {name: os.environ[name] for name in LIBRARIES if name in os.environ}
        # no buffers: a thread holds the lock of one while it writes, and a child forked meanwhile would wait for it
        running = subprocess.Popen(words, env=known, cwd="/", bufsize=0, **pipes)
        assert running.stdin is not None
        os.set_blocking(running.stdin.fileno(), False)
        _process = _Process(running, LIMITS)
        if _read(running, time.monotonic() + WALL_SECONDS) is None:
            why = _ended(_process)
            raise InputError(f"chat templates need a process apart: {shlex.join(words)} does not start ({why})")
    return _process


def stop() -> None:
    """End the process, if there is one; the next template gets another."""
    global _process
    held, _process = _process, None
    if held is not None:
        held.running.kill()
        held.running.wait()
        _close(held)


def _close(process: _Process) -> None:
    for pipe in (process.running.stdin, process.running.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


def _forget() -> None:
    """In a forked child: the process belongs to the parent, which waits for the end of its input to be seen."""
    global _process, _lock
    held, _process, _lock = _process, None, threading.Lock()
    if held is not None:
        _close(held)
        held.running.returncode = 0  # it is no child of this process


atexit.register(stop)
os.register_at_fork(after_in_child=_forget)
