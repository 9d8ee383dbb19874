"""A real Slurm of two nodes: the script that `tracestill slurm` writes, and DeepSpeed's launcher in an allocation.

apt-get install slurm-wlm munge
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster_support
import pytest
import slurm_support
from mini_training import ENDLESS, TRAIN, begun, losses, make_run, recipe_of

from tracestill.trainer.recipe.recipe import dump_recipe

PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = slurm_support.why_no_slurm()
UNSAID = ("env", "-u", "OMP_NUM_THREADS")  # as where nobody has said how many threads
SECONDS = 150  # for whatever should come to pass, on a busy machine
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"NO SLURM CAN RUN HERE: {REASON}")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("slurm"), 2) as hosts, slurm_support.slurm(hosts) as made:
        yield made


def submit(slurm, folder, steps, *more):
    """The job that `tracestill slurm` makes of a recipe: its number, and its run directory."""
    (folder / "mini.yaml").write_text(dump_recipe(recipe_of(steps)))
    asked = ("--nodes", 2, "--gpus", 0, "--ranks", 1, "--time", "20m", "--interface", cluster_support.INTERFACE, *more)
    wrote = slurm.hosts.run(PROGRAM, "slurm", "mini.yaml", *asked, cwd=folder)
    assert wrote.stdout == "next: sbatch mini.sbatch\n", wrote.stderr
    sent = slurm.hosts.run(*UNSAID, "sbatch", "--parsable", "mini.sbatch", cwd=folder, **slurm.environment)
    assert sent.returncode == 0, sent.stderr
    return sent.stdout.strip(), folder / "runs/mini"


def said(run: Path) -> str:
    """What all attempts of the job of a run printed."""
    return "".join(path.read_text() for path in run.parents[1].glob("mini-*.log"))


def wait_for_steps(slurm, job, run, count):
    slurm.wait_for(lambda: len(losses(run)) > count, f"{count} steps", SECONDS)
    assert slurm.field(job, "JobState") == "RUNNING", said(run)


def wait_for_the_queue(slurm, job, run):
    """Until a job is in the queue again, and let it start soon: Slurm would make it wait for two minutes."""
    slurm.wait_for(lambda: slurm.field(job, "JobState") == "PENDING", "second attempt", SECONDS)
    assert slurm.field(job, "Restarts") == "1"
    assert (run / TRAIN / "stopped.json").exists(), said(run)
    time.sleep(3)  # what was allowed to the first attempt is forbidden for a second or two, and would be to this one
    slurm.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


def wait_for_the_end(slurm, job, run):
    over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
    slurm.wait_for(lambda: slurm.field(job, "JobState") in over, "end of the job", SECONDS)
    assert slurm.field(job, "JobState") == "COMPLETED", said(run)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The losses of two ranks on one host, without any Slurm."""

    def train(steps):
        made = tmp_path_factory.mktemp("alone")
        (made / "mini.yaml").write_text(dump_recipe(recipe_of(steps)))
        words = ("run", "mini.yaml", "--run-dir", "run", "--until", "train")
        found = subprocess.run(
            [str(PROGRAM), *words], cwd=made, capture_output=True, text=True, timeout=2 * SECONDS, check=False
        )
        assert found.returncode == 0, found.stderr
        return losses(made / "run")

    return train


def test_the_batch_script_runs_a_recipe_to_its_report(slurm, tmp_path):
    job, run = submit(slurm, tmp_path, 4)
    wait_for_the_end(slurm, job, run)
    assert len(losses(run)) == 4
    assert json.loads((run / TRAIN / "manifest.json").read_text())["counts"]["ranks"] == 2
    assert json.loads((run / "report/report.json").read_text())["missing"] == []
    assert machine_of(run) == ("1", 1)


def machine_of(run):
    """Threads that rank 0 was told to use, and the cores that it may use: Slurm binds tasks to theirs."""
    found = json.loads((run / TRAIN / "provenance.json").read_text())
    return found["environment"]["OMP_NUM_THREADS"], found["machine"]["cores"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="ONE CORE HERE: two are bound")
def test_a_rank_has_the_cores_that_were_asked_for(slurm, tmp_path):
    job, run = submit(slurm, tmp_path, ENDLESS, "--cpus", 2)
    slurm.wait_for(lambda: (run / TRAIN / "provenance.json").exists(), "begin of training", SECONDS)
    slurm.ask("scancel", "--full", "--signal=KILL", job)
    assert machine_of(run) == ("2", 2)


# In the place of Python: data are there, and of the ranks all wait (loading, or for the others to come), or the first
# fails and Slurm ends the other.
STAND_IN = """#!/bin/bash
case "$*" in *tracestill.trainer.train*) ;; *) exit 0 ;; esac
[ "$SLURM_PROCID" = 0 ] && {first}
touch "$0.ready-$SLURM_PROCID"
exec {python} -c 'import signal, sys, time
if {hears}: signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
time.sleep(60)'
"""


@pytest.mark.parametrize(("first", "hears"), [(1, False), (2, True), (None, True)])
def test_a_failure_before_the_ranks_have_met_is_told_from_a_stop(slurm, tmp_path, first, hears):
    """Where one fails, Slurm sends the others the signal that it sends before the limit."""
    (tmp_path / "mini.yaml").write_text(dump_recipe(recipe_of(4)))
    asked = ("--nodes", 2, "--gpus", 0, "--ranks", 1, "--time", "20m")
    assert slurm.hosts.run(PROGRAM, "slurm", "mini.yaml", *asked, cwd=tmp_path).returncode == 0
    python, script = tmp_path / "python", tmp_path / "mini.sbatch"
    act = "true" if first is None else f"{{ until [ -e $0.ready-1 ]; do sleep 0.1; done; exit {first}; }}"
    python.write_text(STAND_IN.format(first=act, python=sys.executable, hears=hears))
    python.chmod(0o755)
    script.write_text(re.sub(r"(?m)^python=.*$", f"python={python}", script.read_text()))
    sent = slurm.hosts.run("sbatch", "--parsable", script, cwd=tmp_path, **slurm.environment)
    job, log = sent.stdout.strip(), tmp_path / f"mini-{sent.stdout.strip()}.log"
    if first is None:
        slurm.wait_for(lambda: len(list(tmp_path.glob("python.ready-*"))) == 2, "ranks", SECONDS)
        time.sleep(0.5)
        slurm.ask("scancel", "--signal=TERM", job)
    over = ("PENDING",) if first is None else ("FAILED", "COMPLETED", "PENDING")
    slurm.wait_for(lambda: slurm.field(job, "JobState") in over and log.exists(), "end of the attempt", SECONDS)
    found = slurm.field(job, "JobState"), slurm.field(job, "Restarts"), slurm.field(job, "ExitCode")
    slurm.ask("scancel", job)
    assert found[:2] == (("PENDING", "1") if first is None else ("FAILED", "0")), log.read_text()
    assert first is None or found[2] == f"{first}:0"


@pytest.mark.soak
@pytest.mark.parametrize("what", ["signal", "preemption"])
def test_a_job_that_is_stopped_goes_on_as_if_it_had_not_been(slurm, tmp_path, undisturbed, what):
    job, run = submit(slurm, tmp_path, 400)
    wait_for_steps(slurm, job, run, 5)
    if what == "signal":  # as --signal of the script: to all steps, not to the script
        slurm.ask("scancel", "--signal=TERM", job)
    else:  # what a more important job and an operator do: SIGTERM to all, and SIGKILL some seconds later
        slurm.ask("scontrol", "requeue", job)
    wait_for_the_queue(slurm, job, run)
    stopped = json.loads((run / TRAIN / "stopped.json").read_text())
    assert 5 < stopped["step"] < 400
    wait_for_the_end(slurm, job, run)
    assert losses(run) == undisturbed(400)
    assert (run / "report/report.html").exists()


@pytest.mark.soak
def test_slurm_itself_sends_the_signal_before_the_limit(slurm, tmp_path):
    job, run = submit(slurm, tmp_path, ENDLESS)
    wait_for_steps(slurm, job, run, 5)
    slurm.ask("scontrol", "update", f"JobId={job}", "TimeLimit=5")  # less than the 300 s of --signal=TERM@300 are left
    slurm.wait_for(lambda: slurm.field(job, "JobState") == "PENDING", "second attempt", SECONDS)
    assert "stopped and saved; back into the queue" in said(run)
    assert json.loads((run / TRAIN / "stopped.json").read_text())["reason"].startswith("SIGTERM")
    slurm.ask("scancel", job)


def python(pids, *words):
    """The one process of Python among ``pids`` with these words in a row on its command line."""
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0") for pid in pids}
    (found,) = (pid for pid, line in lines.items() if "python" in line[0] and "\0".join(words) in "\0".join(line))
    return found


def in_an_allocation(slurm, run, *words, cpus=1):
    salloc = ("salloc", "--nodes=2", "--ntasks-per-node=1", f"--cpus-per-task={cpus}")
    hosts = slurm.hosts.hostfile("a", "b")
    return (
        *salloc,
        *UNSAID,
        PROGRAM,
        "train",
        run,
        "--arm",
        "traces",
        "--hostfile",
        hosts,
        "--launcher",
        "slurm",
        *words,
    )


@pytest.mark.soak
def test_deepspeeds_launcher_in_an_allocation(slurm, tmp_path, undisturbed):
    run = make_run(tmp_path / "run")
    found = slurm.hosts.run(*in_an_allocation(slurm, run, cpus=2), seconds=SECONDS, **slurm.environment)
    assert found.returncode == 0, found.stdout + found.stderr
    assert losses(run) == pytest.approx(undisturbed(4), rel=1e-6)
    assert machine_of(run) == ("2", min(2, len(os.sched_getaffinity(0))))


@pytest.mark.soak
@pytest.mark.parametrize("what", ["stop", "death"])
def test_ranks_in_an_allocation_end_together(slurm, tmp_path, what):
    run = make_run(tmp_path / "run", ENDLESS)
    with begun(slurm.hosts, run, in_an_allocation(slurm, run), **slurm.environment) as process:
        if what == "stop":
            os.kill(python(slurm.hosts.pids("a"), str(PROGRAM), "train"), signal.SIGTERM)
        else:
            os.kill(python(slurm.hosts.pids("b"), "tracestill.trainer.train", "--run-dir"), signal.SIGKILL)
        _, err = process.communicate(timeout=SECONDS)
        assert process.returncode == (3 if what == "stop" else 4), err
    slurm.wait_for(lambda: not slurm.ask("squeue", "--noheader"), "end of the allocation", SECONDS)
    assert not [line for name in "ab" for line in slurm.hosts.processes(name) if str(run) in line]
