"""Ranks that wait for each other inside of a library end at once: there is nothing to save yet."""

import fcntl
import os
import signal
import subprocess
import sys

import pytest

from tracestill.trainer.faults.stopping import ends_at_once, hear

WAITS = """
import ctypes
from tracestill.trainer.faults.stopping import ends_at_once, hear
library, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
with ends_at_once():
    print("ready", flush=True)
    for _ in range(2):  # the second waits for ever, and no signal ends it
        library.pthread_mutex_lock(mutex)
"""
NOTHING = "before the ranks had met: no step was taken, nothing is lost"


@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 3, "stopped (SIGTERM)"), (signal.SIGINT, 130, "interrupted")]
)
def test_a_signal_is_heard_in_the_middle_of_a_wait(number, code, said):
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    with process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        try:
            assert process.wait(20) == code
        finally:
            process.kill()
        assert process.stderr.read() == f"{said} {NOTHING}\n"


def test_a_launcher_that_ends_leaves_no_rank_waiting():
    launcher = ["sh", "-c", '"$@" & read line', "sh", sys.executable, "-c", WAITS]
    with subprocess.Popen(
        launcher,
        env={**os.environ, "LOCAL_SIZE": "2"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "ready\n"
        _, said = process.communicate("end\n", timeout=30)
    assert said == f"failed: the launcher has ended {NOTHING}\n"


def test_afterwards_all_is_as_before():
    def of_this_process():
        descriptor = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(descriptor)
        return [descriptor, *map(signal.getsignal, (signal.SIGTERM, signal.SIGINT)), len(os.listdir("/proc/self/fd"))]

    before = of_this_process()
    with ends_at_once():
        assert of_this_process() != before
    assert of_this_process() == before


def test_it_listens_where_many_files_are_open():
    heard, told = os.pipe()
    high = fcntl.fcntl(heard, fcntl.F_DUPFD, 1024)
    os.close(heard)
    os.close(told)
    hear(high)  # nobody can write any more
    os.close(high)


def test_a_signal_at_the_very_end_is_not_lost(monkeypatch):
    heard, set_wakeup_fd = [], signal.set_wakeup_fd

    def restore(descriptor, **more):
        found = set_wakeup_fd(descriptor, **more)
        if descriptor == -1:
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with ends_at_once():
            monkeypatch.setattr(signal, "set_wakeup_fd", restore)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
