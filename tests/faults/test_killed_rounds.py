"""`tracestill rounds`, killed as a whole at random instants, and while a student writes or is asked, or between two
rounds, leaves what it leaves where nobody disturbs it.

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
LATEST = 20.0  # CPU seconds of a start, in the half of which training begins
SECONDS = 3600.0  # that one start may take on a busy machine
SMALL = ("evaluate.batch_size=4", "rounds.count=1", "train.steps=24")  # a student writes five chunks
LATER, ASKED = "rounds/1/", "arms/traces/.evaluate."
MOMENTS = {  # which a file tells of, in the order in which it comes, and CPU seconds from there on
    "round 0 is asked, it begins": (f"rounds/0/{ASKED}now.json", 0.0),
    "some answers are kept": (f"rounds/0/{ASKED}answers/*.jsonl", 0.0),
    "its answers are written down": ("rounds/0/arms/traces/.evaluate*/samples.parquet", 0.0),
    "its report is written": ("rounds/0/arms/traces/evaluate/manifest.json", 0.0),
    "validation begins": ("rounds/0/report/manifest.json", 0.0),
    "round 0 is over": ("rounds/0/validation/manifest.json", 0.0),
    "its student is to write": (LATER + ".written.now.json", 0.0),
    "it writes the first chunk": (LATER + ".written.now.json", 1.0),
    "one chunk is kept": (LATER + ".written/*/sampled-00000000.json", 0.0),
    "three chunks are kept": (LATER + ".written/*/sampled-00000008.json", 0.2),
    "unsolved questions are asked": (LATER + ".written/*/sampled-00000012.json", 0.0),
    "all is written": (LATER + "written/manifest.json", 0.0),
    "its traces are read": (LATER + "sample/manifest.json", 0.0),
    "they are selected": (LATER + "select/manifest.json", 0.0),
    "the monitor has looked": (LATER + "monitor/manifest.json", 0.0),
    "round 1 is asked": (LATER + ASKED + "answers/*.jsonl", 0.0),
    "all rounds are over": (LATER + "validation/manifest.json", 0.0),
}


class Command:
    """`tracestill rounds` in a folder, with all that it starts."""

    def __init__(self, folder: Path, *settings: str) -> None:
        self.root, self.output = folder / "run", folder / "said.txt"
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tracestill.launch.cli", "rounds", "small.yaml", "--run-dir", "run"]
                + [word for setting in settings for word in ("--set", setting)],
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

    def sees(self, pattern: str) -> bool:
        """Wait until there is such a file in the run, of this process or one before; False if it has ended before."""
        deadline = time.monotonic() + SECONDS
        while not any(self.root.glob(pattern)):
            if self.ended():
                return False
            assert time.monotonic() < deadline, self.output.read_text()[-5000:]
            time.sleep(0.005)
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


@pytest.mark.soak
@pytest.mark.timeout(5 * 3600)
def test_killed_while_a_student_writes_or_is_asked_and_between_rounds_they_end_the_same(tmp_path, counted):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        write_small_rounds(folder)
    command = Command(whole, *SMALL)
    try:
        assert not command.until(float("inf"))
        for moment, (pattern, seconds) in MOMENTS.items():
            command = Command(killed, *SMALL)
            assert command.sees(pattern), f"never seen: {moment}"
            assert command.until(command.seconds() + seconds), moment
            command.kill()
            print(f"killed when {moment}", flush=True)
        command = Command(killed, *SMALL)
        assert not command.until(float("inf"))
    finally:
        command.kill()
    expected, found = outcome(whole / "run"), outcome(killed / "run")
    assert found[0] == expected[0]
    assert found[1] == expected[1]
    assert any(name.endswith("evaluate/samples.parquet") for name in found[1])
    counted("SIGKILL of all of it while a student writes or is asked", len(MOMENTS), "what it leaves is the same")
