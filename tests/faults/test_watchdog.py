"""What the watchdog makes of ranks that die, stop, hang or raise: every test is a real training on two gloo ranks.

DeepSpeed's launcher starts those of the first; the others' are forked, and end as it would end them.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import distributed_support
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


def wait_for_step(run: RunDirectory, step: int, alive: Callable[[], bool]) -> None:
    """Until the log has its line, or the training has ended."""
    deadline = time.monotonic() + 100
    log = run.stage("traces", "train") / "log.jsonl"
    while alive() and not (log.exists() and f'"step": {step}, "epoch"' in log.read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seconds_since_the_last_step(run: RunDirectory) -> float:
    return time.time() - (run.stage("traces", "train") / "log.jsonl").stat().st_mtime


def failure_of(run: RunDirectory) -> dict:
    return json.loads((run.stage("traces", "train") / "failure.json").read_text())


def stacks_of(run: RunDirectory, rank: int) -> str:
    return (run.stage("traces", "train") / "failures" / f"stacks-rank-{rank:05d}.txt").read_text()


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank -> process id."""
    found = {}
    for child in psutil.Process(launcher).children(recursive=True):
        with contextlib.suppress(psutil.Error):  # it has ended
            if SCRIPT.name in " ".join(child.cmdline()) and "RANK" in child.environ():
                found[int(child.environ()["RANK"])] = child.pid
    return found


def test_a_killed_rank_ends_the_other_at_once(run, counted):
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--num_gpus", "2"]
    command += ["--master_port", str(free_port()), str(SCRIPT), str(run.root), "none"]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
    process = subprocess.Popen(command, env=environment(), **how)
    try:
        wait_for_step(run, 2, lambda: process.poll() is None)
        pids = ranks_of(process.pid)
        os.kill(pids[1], signal.SIGKILL)
        begun = time.monotonic()
        printed, _ = process.communicate(timeout=150)
        assert time.monotonic() - begun < 15, printed
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert process.returncode not in (0, None)
    assert not [pid for pid in pids.values() if psutil.pid_exists(pid)], "an orphan"
    failure = failure_of(run)
    assert failure["rank"] == 1
    assert "has gone" in failure["reason"]
    assert failure["by"] == 0
    assert "failed: rank 1 has gone" in printed
    assert "batches.py" in stacks_of(run, 0) or "train.py" in stacks_of(run, 0)
    counted("a rank that is killed", 1, ENDED)


def test_a_rank_that_stands_still_is_found_and_killed(run, counted):
    if not distributed_support.can_fork():
        pytest.skip("NOTHING CAN BE FORKED HERE, and this looks for forked ranks")
    server = distributed_support.server().process.pid
    with ThreadPoolExecutor(1) as pool:
        ended = pool.submit(run_workers, SCRIPT, run.root, "none", ranks=2, timeout=100, fails=True)
        wait_for_step(run, 2, lambda: not ended.done())
        first, _ = Path(f"/proc/{server}/task/{server}/children").read_text().split()  # as they were forked
        os.kill(int(first), signal.SIGSTOP)
        ended.result()
    assert seconds_since_the_last_step(run) < SILENCE + 12
    failure = failure_of(run)
    assert (failure["rank"], failure["by"]) == (0, 1)
    assert "no sign of life" in failure["reason"]
    counted("a rank that stands still", 1, ENDED)


def test_a_rank_that_hangs_is_named_with_its_phase_and_the_stacks_of_all(run, counted):
    run_workers(SCRIPT, run.root, "hang", ranks=2, fails=True)
    assert STEP < seconds_since_the_last_step(run) < STEP + 15
    failure = failure_of(run)
    assert (failure["rank"], failure["code"]) == (1, 4)
    assert "no progress" in failure["reason"]
    assert {(row["rank"], row["phase"]) for row in failure["ranks"]} >= {(1, "data")}
    assert "in hang" in stacks_of(run, 1)
    assert stacks_of(run, 0)
    counted("a rank that hangs", 1, ENDED)


def test_an_exception_of_one_rank_is_the_one_that_is_told(run, counted):
    printed = run_workers(SCRIPT, run.root, "raise", ranks=2, code=4)
    failure = failure_of(run)
    assert failure["rank"] == 1
    assert "ZeroDivisionError" in failure["reason"]
    assert "in boom" in failure["traceback"]
    assert printed.count("Traceback (most recent call last)") == 1, printed
    counted("a rank whose data raises", 1, ENDED)


def test_bad_input_that_one_rank_alone_meets_ends_all_with_its_words(run, counted):
    printed = run_workers(SCRIPT, run.root, "input", ranks=2, code=2)
    assert failure_of(run)["code"] == 2
    assert "error: document 7 is torn" in printed
    counted("a rank that meets bad input", 1, ENDED)


def test_a_rank_that_holds_the_others_up_is_named_with_its_phase(run):
    run_workers(SCRIPT, run.root, "slow", ranks=2, code=9)
    lines = [json.loads(line) for line in (run.stage("traces", "train") / "log.jsonl").read_text().splitlines()]
    assert max(line["step"] for line in lines if "loss" in line) >= 4
    slow = [line for line in lines if line.get("event") == "straggler"]
    assert {(line["rank"], line["phase"]) for line in slow if line["step"] > 1} == {(1, "data")}
    assert all(line["seconds"] > 0.4 > line["usual"] for line in slow if line["step"] > 1)
