"""What the watchdog makes of ranks that die, stop, hang or raise: every test is a real training on two gloo ranks.

DeepSpeed's launcher starts them, but for the two tests that read only what ranks leave behind.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import yaml
from distributed_support import environment, free_port, run_workers
from fake_run import RECIPE, run_data_stages

from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

SCRIPT = Path(__file__).with_name("watched_worker.py")
SILENCE, STEP = 4, 8
ENDED = "all ranks end, it is named, no process is left"


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    """A recipe whose training outlasts every test, with short limits."""
    path = tmp_path_factory.mktemp("watched") / "recipe.yaml"
    train = {"steps": 1000, "ranks": 2, "log_every": 1, "watchdog": {"silence": SILENCE, "step": STEP, "start": 60}}
    path.write_text(yaml.safe_dump({**RECIPE, "train": train, "arms": {}}))
    return path


@pytest.fixture
def run(recipe, tmp_path) -> RunDirectory:
    """A run whose data is ready."""
    made = RunDirectory.create(tmp_path / "run", load_recipe(recipe))
    run_data_stages(made)
    return made


@pytest.fixture
def watched(run):
    """Start a training with a fault in it by DeepSpeed's launcher, and return what it leaves behind."""
    started: list[subprocess.Popen[str]] = []

    def start(fault: str) -> "Training":
        command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
        command += ["--master_port", str(free_port()), str(SCRIPT), str(run.root), fault]
        process = subprocess.Popen(
            command,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return Training(process, run.stage("traces", "train"))

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


class Training:
    def __init__(self, process: subprocess.Popen[str], directory: Path) -> None:
        self.process, self.directory = process, directory

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 100
        log = self.directory / "log.jsonl"
        while not log.exists() or f'"step": {step}, "epoch"' not in log.read_text():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def pids(self) -> dict[int, int]:
        """Rank -> process id."""
        found = {}
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it has ended
                if SCRIPT.name in " ".join(child.cmdline()) and "RANK" in child.environ():
                    found[int(child.environ()["RANK"])] = child.pid
        return found

    def end(self, seconds: float = 150) -> tuple[str, dict]:
        """What it prints until its end, which comes within ``seconds``, and its failure.json; nothing is left of it."""
        pids = self.pids()
        begun = time.monotonic()
        printed, _ = self.process.communicate(timeout=150)
        assert time.monotonic() - begun < seconds, printed
        assert self.process.returncode not in (0, None)
        assert not [pid for pid in pids.values() if psutil.pid_exists(pid)], "an orphan"
        return printed, json.loads((self.directory / "failure.json").read_text())

    def stacks(self, rank: int) -> str:
        return (self.directory / "failures" / f"stacks-rank-{rank:05d}.txt").read_text()


def test_a_killed_rank_ends_the_other_at_once(watched, counted):
    training = watched("none")
    training.wait_for_step(2)
    os.kill(training.pids()[1], signal.SIGKILL)
    printed, failure = training.end(15)
    assert failure["rank"] == 1
    assert "has gone" in failure["reason"]
    assert failure["by"] == 0
    assert "failed: rank 1 has gone" in printed
    assert "batches.py" in training.stacks(0) or "train.py" in training.stacks(0)
    counted("a rank that is killed", 1, ENDED)


def test_a_rank_that_stands_still_is_found_and_killed(watched, counted):
    training = watched("none")
    training.wait_for_step(2)
    os.kill(training.pids()[0], signal.SIGSTOP)
    _, failure = training.end(SILENCE + 12)
    assert (failure["rank"], failure["by"]) == (0, 1)
    assert "no sign of life" in failure["reason"]
    counted("a rank that stands still", 1, ENDED)


def test_a_rank_that_hangs_is_named_with_its_phase_and_the_stacks_of_all(watched, counted):
    training = watched("hang")
    training.wait_for_step(2)
    _, failure = training.end(STEP + 15)
    assert (failure["rank"], failure["code"]) == (1, 4)
    assert "no progress" in failure["reason"]
    assert {(row["rank"], row["phase"]) for row in failure["ranks"]} >= {(1, "data")}
    assert "in hang" in training.stacks(1)
    assert training.stacks(0)
    counted("a rank that hangs", 1, ENDED)


def test_an_exception_of_one_rank_is_the_one_that_is_told(run, counted):
    printed = run_workers(SCRIPT, run.root, "raise", ranks=2, code=4)
    failure = json.loads((run.stage("traces", "train") / "failure.json").read_text())
    assert failure["rank"] == 1
    assert "ZeroDivisionError" in failure["reason"]
    assert "in boom" in failure["traceback"]
    assert printed.count("Traceback (most recent call last)") == 1, printed
    counted("a rank whose data raises", 1, ENDED)


def test_bad_input_that_one_rank_alone_meets_ends_all_with_its_words(watched, counted):
    training = watched("input")
    printed, failure = training.end()
    assert failure["code"] == 2
    assert "error: document 7 is torn" in printed
    assert training.process.returncode == 2
    counted("a rank that meets bad input", 1, ENDED)


def test_a_rank_that_holds_the_others_up_is_named_with_its_phase(run):
    run_workers(SCRIPT, run.root, "slow", ranks=2, code=9)
    lines = [json.loads(line) for line in (run.stage("traces", "train") / "log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines if "loss" in line) >= 4
    slow = [line for line in lines if line.get("event") == "straggler"]
    assert {(line["rank"], line["phase"]) for line in slow if line["step"] > 1} == {(1, "data")}
    assert all(line["seconds"] > 0.4 > line["usual"] for line in slow if line["step"] > 1)
