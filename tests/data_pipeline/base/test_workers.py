"""A function in processes: in order, some at a time; a dead process is a clear error, a dead parent leaves none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from tracestill.data_pipeline.base.workers import AHEAD, WorkerDied, shared_out

LONELY = """
import time
from tracestill.data_pipeline.base.workers import shared_out
if __name__ == "__main__":
    for _ in shared_out(time.sleep, [0.01] * 10**6, 2, "x"):
        print("going on", flush=True)
"""


def act(item: int) -> int:
    if item == -1:
        os.kill(os.getpid(), signal.SIGKILL)
    if item == -2:
        raise ValueError("as it is")
    time.sleep(0.02 * (item % 3))  # not as quick as one another
    return item * item


def workers_left() -> list[list[str]]:
    """Without Python's own resource tracker, which ends with this process."""
    lines = [each.cmdline() for each in psutil.Process().children()]
    return [line for line in lines if "spawn_main" in " ".join(line)]


def test_results_come_in_order_whoever_is_quicker_and_no_more_is_read_than_needed() -> None:
    taken = []
    items = (taken.append(at) or at for at in range(100))
    found = shared_out(act, items, 2, "select.workers")
    assert [next(found) for _ in range(30)] == [at * at for at in range(30)]
    assert len(taken) <= 30 + 2 * AHEAD
    found.close()
    assert not workers_left()


def test_a_process_that_dies_and_one_that_raises() -> None:
    with pytest.raises(WorkerDied, match=r"one of 2 worker processes died.*with a smaller select\.workers"):
        list(shared_out(act, [1, -1, 2], 2, "select.workers"))
    with pytest.raises(ValueError, match="as it is"):
        list(shared_out(act, [1, -2, 2], 2, "select.workers"))
    assert not workers_left()


def test_no_process_outlives_a_parent_that_is_killed(tmp_path) -> None:
    path = tmp_path / "lonely.py"
    path.write_text(LONELY)
    parent = subprocess.Popen([sys.executable, path], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "going on\n"
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert not alive
