"""Ends what is left of one launch on this host: exactly the processes that bear its mark, and no others.

DeepSpeed's own cleanup (``pkill -f``) would end every training that was started with the same Python.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time

import psutil

from tracestill.launch.probe import MARK

VARIABLE = "TRACESTILL_LAUNCH"  # in the environment of every process of a launch
GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


def end_run(token: str) -> int:
    """End every process whose environment holds the launch's token; how many there were."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(VARIABLE) == token:
                found.append(process)
        except psutil.Error:
            continue
    for act in (psutil.Process.terminate, psutil.Process.kill):
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


if __name__ == "__main__":
    print(MARK + json.dumps({"ended": end_run(json.loads(sys.argv[1])["token"])}), flush=True)
