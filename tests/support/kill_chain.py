"""Kills a training again and again, at random instants, until it is done in spite of it."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from distributed_support import environment

ENTRY = "tracestill.trainer.train"
WHEN = {"while it starts": 0.15, "in a step": 0.35, "in a save": 0.5}
WHOM = {"rank 0": 0.25, "rank 1": 0.25, "both ranks": 0.25, "everything": 0.25}  # everything: the launcher's parent too
PATIENCE = 240.0  # seconds without a new step


class Kill(NamedTuple):
    when: str  # of WHEN
    whom: str  # of WHOM


def random_kills(number: int, seed: int) -> list[Kill]:
    draw = random.Random(seed)
    when, whom = (draw.choices([*of], [*of.values()], k=number) for of in (WHEN, WHOM))
    return [Kill(*pair) for pair in zip(when, whom, strict=True)]


class Chain:
    """One training, its processes, and what was counted."""

    def __init__(self, run: Path, restarts: int, seed: int) -> None:
        self.run, self.restarts, self.draw = run, restarts, random.Random(seed)
        self.directory = run / "arms/traces/train"
        self.output = run / "chain.log"
        self.counts: Counter[str] = Counter()
        self.dead: set[psutil.Process] = set()  # by number and time of birth: the kernel gives numbers again
        self.left: set[Path] = set()  # half-written checkpoints
        self.start_seconds = 5.0  # what an attempt takes to its first step
        self.launch()

    def launch(self) -> None:
        self.counts["times it was started by hand"] += 1
        command = [sys.executable, "-m", "tracestill.launch.cli", "train", str(self.run)]
        with self.output.open("a") as output:
            self.process = subprocess.Popen(
                [*command, "--max-restarts", str(self.restarts)],
                env=environment(),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(self.process.pid)
            return [parent, *parent.children(recursive=True)]
        return []

    def ranks(self) -> dict[int, psutil.Process]:
        """The ranks of an attempt that is not dead yet."""
        found = {}
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                if process not in self.dead and ENTRY in process.cmdline() and "RANK" in process.environ():
                    found[int(process.environ()["RANK"])] = process
        return found

    def steps(self) -> list[dict[str, Any]]:
        with contextlib.suppress(OSError):
            text = (self.directory / "log.jsonl").read_text()
            return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        return []

    def newest(self) -> int:
        steps = [int(path.name.removeprefix("step-")) for path in (self.directory / "checkpoints").glob("step-*")]
        return max(steps, default=0)

    def saving(self) -> bool:
        """Whether something is there that is not committed, besides what earlier kills left."""
        return not self.left.issuperset((self.directory / "checkpoints").glob("tmp-*"))

    def ended(self) -> bool:
        """Whether it is done. Where it has given up, it is started again."""
        code = self.process.poll()
        if code == 0:
            return True
        if code is not None:
            assert code == 4, f"exit code {code}: {self.output.read_text()[-5000:]}"
            assert "gave up" in self.output.read_text()[-5000:]
            self.counts["times it gave up, no step further twice"] += 1
            self.launch()
        return False

    def wait(self, condition: Any) -> bool:
        """Until it holds; False if the training ends before."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            if self.ended():
                return False
            assert time.monotonic() < deadline, self.output.read_text()[-5000:]
            time.sleep(0.002)
        return True

    def kill(self, kill: Kill) -> bool:
        """Wait for the instant, and kill; False if the training ended before."""
        ranks: dict[int, psutil.Process] = {}

        def both() -> bool:
            time.sleep(0.05)
            ranks.update(self.ranks())
            return len(ranks) == 2 and all(process.is_running() for process in ranks.values())

        if not self.wait(both):
            return False
        begun, log = time.monotonic(), self.directory / "log.jsonl"
        if kill.when == "while it starts":
            time.sleep(self.draw.uniform(0, self.start_seconds))
        else:
            before = log.stat().st_mtime_ns if log.exists() else 0
            if not self.wait(lambda: log.exists() and log.stat().st_mtime_ns != before and self.steps()):
                return False
            self.start_seconds = time.monotonic() - begun
            goal = self.steps()[-1]["step"] + self.draw.randrange(4)
            if not self.wait(lambda: self.steps()[-1]["step"] >= goal):
                return False
            if kill.when == "in a save" and not self.wait(self.saving):
                return False
            time.sleep(self.draw.uniform(0, 0.01))
        victims = {"rank 0": [ranks[0]], "rank 1": [ranks[1]], "both ranks": [*ranks.values()]}
        victims["everything"] = self.family()
        for process in victims[kill.whom]:
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        psutil.wait_procs([*ranks.values()], timeout=60)
        self.dead |= {*ranks.values()}
        self.counts[f"killed {kill.when}"] += 1
        self.counts[f"killed: {kill.whom}"] += 1
        self.counts["saves left half-written"] += self.saving()
        self.left.update((self.directory / "checkpoints").glob("tmp-*"))
        self.counts["steps done again"] += max(0, (self.steps() or [{"step": 0}])[-1]["step"] - self.newest())
        if kill.whom == "everything":
            self.process.wait()
            self.launch()
        return True

    def finish(self) -> dict[str, Any]:
        """Let it come to its end; what was counted."""
        deadline = time.monotonic() + PATIENCE
        while not self.ended():
            assert time.monotonic() < deadline, self.output.read_text()[-5000:]
            time.sleep(0.05)
        self.counts["restarts by --max-restarts"] = self.output.read_text().count("  restart ")
        return dict(sorted(self.counts.items()))

    def close(self) -> None:
        for process in self.family():
            with contextlib.suppress(psutil.Error):
                os.kill(process.pid, signal.SIGKILL)
