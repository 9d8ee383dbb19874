"""Ends what is left of one launch on this host: exactly the processes that bear its mark, and no others.

DeepSpeed's own cleanup (``pkill -f``) would end every training that was started with the same Python.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.working_directory import leave_working_directory

    leave_working_directory()

import contextlib
import json
import os
import sys
import time

import psutil

from tracestill.launch.probe import MARK
from tracestill.trainer.join_ranks import LAUNCH

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL


def end_run(token: str, variable: str = LAUNCH) -> int:
    """End every process whose environment holds the launch's token, or that of a lock's owner; how many there were."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and process.environ().get(variable) == token:
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
