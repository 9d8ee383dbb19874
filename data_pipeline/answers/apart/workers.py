"""Pairs of expressions, given to the program apart that compares them; started when the first one comes."""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

SERVER = Path(__file__).with_name("server.py")
NEEDS = ("math_verify", "pebble")
REMEDY = "expressions are compared by math-verify: pip install 'tracestill[math]'"
SECONDS = 5.0  # of one pair, from when a worker begins with it
AT_ONCE = 128  # pairs given out and not yet back
KEPT = 1 << 16  # results that are remembered: many samples give one answer
NOTHING = {"answer": "", "gold": ""}
HIDDEN = ("PYTHONSTARTUP", "PYTHONINSPECT")

Found = Mapping[str, Any]


def is_there() -> bool:
    """Whether what compares expressions is installed."""
    return all(find_spec(name) is not None for name in NEEDS)


class Workers:
    """The program and its pipes, of this process; one forked from it starts its own."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0
        self._known: dict[tuple[str, str, float], Found] = {}
        self._number = 0

    def compare(self, pairs: Sequence[tuple[str, str]], seconds: float = SECONDS) -> list[Found]:
        """Outcome, ``answer`` and ``gold`` as they were read, and ``detail``, of each pair (answer, gold).

        A pair may take ``seconds`` from when a worker begins with it; then the worker is killed, and its outcome is
        ``timeout``. The others go on beside it.
        """
        if self._owner != os.getpid():
            self._lock, self._process, self._owner = threading.Lock(), None, os.getpid()
        with self._lock:
            keys = [(answer, gold, seconds) for answer, gold in pairs]
            wanted = [key for key in dict.fromkeys(keys) if key not in self._known]
            if len(self._known) + len(wanted) > KEPT:
                self._known = {key: self._known[key] for key in keys if key in self._known}
            self._ask(wanted)
            return [self._known[key] for key in keys]

    def _ask(self, wanted: list[tuple[str, str, float]]) -> None:
        waiting = list(reversed(wanted))
        out: dict[int, tuple[str, str, float]] = {}
        try:
            while waiting or out:
                process = self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                try:
                    while waiting and len(out) < AT_ONCE:
                        self._number += 1
                        key = out[self._number] = waiting.pop()
                        asked = {"id": self._number, "answer": key[0], "gold": key[1], "seconds": key[2]}
                        process.stdin.write(json.dumps(asked) + "\n")
                    process.stdin.flush()
                    line = process.stdout.readline()
                except OSError:
                    line = ""
                if not line:  # it died: what it had is not given out again, as one of it may be the reason
                    self._known |= {
                        key: {"outcome": "cannot_tell", **NOTHING, "detail": "the program that compares ended"}
                        for key in out.values()
                    }
                    out.clear()
                    self._end()
                    continue
                found = json.loads(line)
                self._known[out.pop(found.pop("id"))] = found
        except BaseException:  # an interrupt: what is still to come would be taken for another answer
            self._end()
            raise

    def _started(self) -> subprocess.Popen[str]:
        if self._process is None:
            count = max(2, min(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2))
            environment = {name: value for name, value in os.environ.items() if name not in HIDDEN}
            self._process = subprocess.Popen(
                [sys.executable, str(SERVER), str(count)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                encoding="utf-8",
                errors="backslashreplace",
                env=environment | {"OMP_NUM_THREADS": "1"},
            )
        return self._process

    def close(self) -> None:
        """End the program, if this process started it."""
        if self._owner == os.getpid():
            with self._lock:
                self._end()

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # it ends its workers, and itself
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


WORKERS = Workers()
atexit.register(WORKERS.close)
