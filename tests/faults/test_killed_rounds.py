"""`tracestill rounds`, killed as a whole at random instants, leaves what it leaves where nobody disturbs it.

KILLS=20 python -m pytest -m soak tests/faults/test_killed_rounds.py
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from distributed_support import environment
from small_rounds import outcome, write_small_rounds

SEED, FULL = 11, 8
LATEST = 30.0  # CPU seconds of a start, in the half of which training begins
SECONDS = 3600.0  # that one start may take on a busy machine


class Command:
    """`tracestill rounds` in a folder, with all that it starts."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "said.txt"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracestill.launch.cli", "rounds", "small.yaml", "--run-dir", "run"],
                cwd=folder,
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.own = psutil.Process(self.process.pid)
        self.spent: dict[psutil.Process, float] = {}

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            return [self.own, *self.own.children(recursive=True)]
        return []

    def seconds(self) -> float:
        """CPU time of all of them so far: on a busy machine an instant by the clock would always be an early one."""
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                self.spent[process] = times.user + times.system
        return sum(self.spent.values())

    def ended(self) -> bool:
        code = self.process.poll()
        assert code in (None, 0), self.output.read_text()[-5000:]
        return code == 0

    def until(self, seconds: float) -> bool:
        """Wait until so much CPU time is spent; False if it has ended before."""
        deadline = time.monotonic() + SECONDS
        while self.seconds() < seconds:
            if self.ended():
                return False
            assert time.monotonic() < deadline, self.output.read_text()[-5000:]
            time.sleep(0.2)
        return True

    def kill(self) -> None:
        """SIGKILL of every process at once: all are stopped before, so that none is born meanwhile."""
        known: set[psutil.Process] = set()
        while some := set(self.family()) - known:
            self.send(some, signal.SIGSTOP)
            known |= some
        self.send(known, signal.SIGKILL)
        self.process.wait()
        psutil.wait_procs([*(known - {self.own})], timeout=60)

    def send(self, processes: set[psutil.Process], number: signal.Signals) -> None:
        for process in processes:
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)


@pytest.mark.soak
@pytest.mark.timeout(5 * 3600)
def test_killed_at_any_instant_rounds_end_as_if_nobody_had_disturbed_them(tmp_path, counted):
    kills, draw, whole = int(os.environ.get("KILLS", FULL)), random.Random(SEED), tmp_path / "whole"
    for folder in (whole, tmp_path / "killed"):
        folder.mkdir()
        write_small_rounds(folder)
    command = undisturbed = Command(whole)
    done: list[str] = []
    try:
        while True:
            command = Command(tmp_path / "killed")
            instant = draw.uniform(0, LATEST) if len(done) < kills else float("inf")
            if not command.until(instant):
                break
            command.kill()
            last = [line for line in command.output.read_text().splitlines() if line.strip()]
            done.append(last[-1] if last else "")
            print(f"killed after {instant:.1f} CPU s, behind: {done[-1]}", flush=True)
        assert not undisturbed.until(float("inf"))
    finally:
        for one in (undisturbed, command):
            one.kill()
    expected, found = outcome(whole / "run"), outcome(tmp_path / "killed/run")
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert sum(name.endswith("export/model.safetensors") for name in found[1]) == 3
    assert sum(name.endswith("written/traces.parquet") for name in found[1]) == 2
    assert all(row["trained"] for row in expected[0]["rounds"])
    assert len(done) >= min(kills, 3), "it was done before it was killed often"
    counted("SIGKILL of all of `tracestill rounds`", len(done), "rounds.json, exports and traces are the same")
