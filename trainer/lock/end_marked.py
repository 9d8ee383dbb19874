"""Ends exactly the processes of this host that bear a mark in their environment, and no others."""

from __future__ import annotations

import contextlib
import os
import time

import psutil

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
AT_ONCE = 0.0  # without a SIGTERM, on which ranks would save


def end_marked(token: str, variable: str, grace: float = GRACE_SECONDS) -> int:
    """End every process whose environment holds ``token`` under ``variable`` (LAUNCH: of one launch; OWNER: of a run's
    lock), SIGKILL coming ``grace`` seconds after SIGTERM; how many there were."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == token:
                found.append(process)
        except psutil.Error:
            continue
    acts = (psutil.Process.terminate, psutil.Process.kill) if grace else (psutil.Process.kill,)
    for act in acts:
        deadline = time.monotonic() + GRACE_SECONDS
        for process in found:
            with contextlib.suppress(psutil.Error):
                act(process)
        while any(map(is_alive, found)) and time.monotonic() < deadline:
            time.sleep(0.05)
    return len(found)


def is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
