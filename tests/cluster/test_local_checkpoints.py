"""Two hosts for real that share no file system: instead of the run directory, b sees one of its own in memory."""

import contextlib
import os
import random
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cluster_support
import pytest
from forked_command import command
from mini_training import losses

from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

ROOT = Path(__file__).parents[2]
PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = cluster_support.why_impossible()
SECONDS = 100
SMALL = {
    **{"questions.train": 60, "questions.test": 8, "train.steps": 4, "train.log_every": 1, "train.warmup": 1},
    **{"train.ranks": 2, "train.checkpoint_every": 1, "train.local_checkpoints": "true"},
    "train.stop_after": "0.001s",  # past long before: it stops after the first step
}
LONG = 240  # steps, which cannot end before four ranks were killed
ENDLESS = ("--set", "train.stop_after=null")
pytestmark = pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}")


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    with cluster_support.hosts(tmp_path_factory.mktemp("cluster"), 2) as made:
        yield made


@pytest.fixture(scope="module")
def data(hosts):
    """The demo, small, up to the plan."""
    made = hosts.folder / "data"
    make_data(ROOT / "recipes/demo.yaml", "--run-dir", made, **SMALL)
    return made


def make_data(*words, **settings):
    chosen = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command("run", *words, *chosen, "--until", "plan", "--replace")


@pytest.fixture
def run(hosts, data, tmp_path):
    """Where a has the data, and b an empty folder."""
    shutil.copytree(data, tmp_path / "run")
    hosts.stop_sshd("b")
    hosts.start_sshd("b", hide=tmp_path / "run")
    return tmp_path / "run"


def on_b(hosts, *words, **options):
    words = ["env", f"PDSH_SSH_ARGS_APPEND=-F {hosts.config}", "DS_ACCELERATOR=cpu", "COLUMNS=400", *map(str, words)]
    return hosts.run("ssh", "-F", hosts.config, "b", shlex.join(words), **options)


def copy_to_b(hosts, run):
    """As ``rsync -a --exclude '/arms/*/train' RUN/ b:RUN/`` does."""
    pack = f"tar -C {run} --exclude './arms/*/train' -c . | ssh -F {hosts.config} b tar -C {run} -x"
    found = hosts.run("sh", "-c", pack)
    assert found.returncode == 0, found.stderr


def train(hosts, run, *words, names="ab", **options):
    command = (PROGRAM, "train", run, "--arm", "traces", "--hostfile", hosts.hostfile(*names), *words)
    return (on_b if names[0] == "b" else hosts.run)(*([hosts] if names[0] == "b" else []), *command, **options)


def undisturbed(data, made):
    """The losses of two ranks on one host."""
    shutil.copytree(data, made)
    command("train", made, "--arm", "traces", *ENDLESS)
    return losses(made)


def test_the_doctor_names_the_host_and_what_differs(hosts, run):
    copy_to_b(hosts, run)
    plan = run / "arms/traces/plan/manifest.json"
    on_b(hosts, "sed", "-i", 's/"files": {/&"more": "0",/', plan)
    on_b(hosts, "touch", plan.with_name("more"))
    on_b(hosts, "rm", "-r", run / "tokenizer")
    on_b(hosts, "sed", "-i", "s/^seed: 0/seed: 1/", run / "recipe.yaml")
    doctor = (PROGRAM, "doctor", "--hostfile", hosts.hostfile("a", "b"), "--run-dir", run)
    found = hosts.run(*doctor, COLUMNS="400")
    assert found.returncode == 1, found.stdout + found.stderr
    (line,) = (line for line in found.stdout.splitlines() if line.startswith("│ copied directory "))
    assert "│ bad" in line
    assert "b lacks tokenizer; b has another recipe.yaml, arms/traces/plan; " in line
    assert not list(run.glob(".tracestill*"))
    assert ".tracestill" not in on_b(hosts, "ls", "-a", run).stdout


def stop(hosts, run):
    """A training that has stopped after its first step."""
    copy_to_b(hosts, run)
    found = train(hosts, run)
    assert found.returncode == 3, found.stdout + found.stderr
    return run / "arms/traces/train/checkpoints/step-000001"


def test_two_hosts_stop_and_go_on_with_a_disk_each(hosts, data, run, tmp_path):
    saved = stop(hosts, run)
    ends = ("-group-000", "-group-001", "")  # zero: 2, what decays and what does not
    files = ["manifest.json", *(f"rank-0000%{end}.safetensors" for end in ends), "state.json"]
    assert sorted(path.name for path in saved.iterdir()) == [name.replace("%", "0") for name in files]
    there = on_b(hosts, "ls", saved).stdout.split()
    assert sorted(there) == [name.replace("%", "1") for name in files]

    RunDirectory.create(run, load_recipe(run / "recipe.yaml", ENDLESS[1:]))
    copy_to_b(hosts, run)

    resumed = train(hosts, run, "--resume", "must")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "resuming from at most step " in resumed.stderr
    expected = undisturbed(data, tmp_path / "one-host")
    assert losses(run) == expected
    assert len(expected) == 4
    assert hosts.processes("a") == hosts.processes("b") == []


@pytest.mark.soak
def test_other_hosts_and_another_order_are_refused_and_no_work_is_lost_in_silence(hosts, run):
    stop(hosts, run)
    turned = train(hosts, run, names="ba")
    assert turned.returncode == 2, turned.stdout + turned.stderr
    assert "(rank 0) has the file(s) of rank 1; " in turned.stderr
    on_b(hosts, "rm", "-r", run / "arms/traces/train")
    for resume in ("auto", "must"):
        found = train(hosts, run, "--resume", resume)
        assert found.returncode == 2, found.stdout + found.stderr
        assert "(rank 1) has nothing of it" in found.stderr
    alone = train(hosts, run, names="a")
    assert alone.returncode == 2, alone.stdout + alone.stderr
    assert "cannot be resumed from: " in alone.stderr


@pytest.mark.soak
def test_deepspeeds_own_command_on_a_finished_run_ends(hosts, run):
    make_data(run, **{"train.stop_after": "null"})
    copy_to_b(hosts, run)
    for said in ("step 4/4", "training of traces is up to date"):
        words = ("--hostfile", hosts.hostfile("a", "b"), "--no_ssh_check", "--master_addr", hosts.addresses["a"])
        rank = ("--module", "tracestill.trainer.train", "--run-dir", run, "--resume", "auto")
        (run.parent / "env").write_text(f"GLOO_SOCKET_IFNAME={cluster_support.INTERFACE}\nDS_ACCELERATOR=cpu\n")
        environment = {"DS_ENV_FILE": str(run.parent / "env"), "OMP_NUM_THREADS": "1"}
        found = hosts.run(PROGRAM.with_name("deepspeed"), *words, *rank, seconds=SECONDS, **environment)
        assert found.returncode == 0, found.stdout + found.stderr
        assert said in found.stdout


@pytest.mark.soak
def test_ranks_killed_on_either_host_change_no_bit(hosts, data, run, tmp_path):
    """At random moments, while every step is saved."""
    long = tmp_path / "long"
    shutil.copytree(data, long)
    make_data(long, **{"train.steps": LONG, "train.stop_after": "null"})
    expected = undisturbed(long, tmp_path / "one-host")
    shutil.copytree(long, run, dirs_exist_ok=True)
    copy_to_b(hosts, run)
    command = (PROGRAM, "train", run, "--arm", "traces", "--hostfile", hosts.hostfile("a", "b"), "--max-restarts", "9")
    where = {"cwd": hosts.folder, "env": hosts.environment(), "start_new_session": True}
    process = subprocess.Popen(hosts.on("a", [str(word) for word in command]), **where)
    chance, killed, log = random.Random(3), [], run / "arms/traces/train/log.jsonl"
    try:
        for host in "baba":
            done = len(losses(run)) if log.exists() else 0
            deadline = time.monotonic() + SECONDS
            while not log.exists() or len(losses(run)) < done + 6:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.05)
            time.sleep(chance.random() * 0.3)
            killed.append(len(losses(run)))
            for pid in hosts.pids(host):
                with contextlib.suppress(OSError):
                    if b"tracestill.trainer.train\0--local_rank" in Path(f"/proc/{pid}/cmdline").read_bytes():
                        os.kill(pid, signal.SIGKILL)
            time.sleep(2)
        assert process.wait(timeout=3 * SECONDS) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert max(killed) < LONG
    assert losses(run) == expected
