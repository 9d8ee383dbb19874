"""A small sweep in earnest, its ranks forked; and, as a soak, one of processes, killed and gone on with."""

import json
import os
import shutil
import signal
import subprocess
import time

import psutil
import pytest
import yaml
from command_line import ROOT, program
from fake_run import RECIPE, Ended
from forked_command import command

from tracestill.launch.sweep import one_arm, side_by_side
from tracestill.launch.sweep.sweep import Sweep
from tracestill.trainer.recipe.run_directory import RunDirectory

TRAIN = {"steps": 4, "ranks": 1, "log_every": 1, "checkpoint_every": 1}
GRID = ("--over", "weighting.weights.prose=0,1", "--seeds", "2")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mini.yaml"
    evaluate = {"max_new_tokens": 8}
    path.write_text(yaml.safe_dump({**RECIPE, "train": TRAIN, "evaluate": evaluate, "arms": {}}))
    return path


def exported(root):
    return {arm: (root / f"arms/{arm}/train/export/model.safetensors").read_bytes() for arm in arms_of(root)}


def arms_of(root):
    return [row["arm"] for row in json.loads((root / "sweep.json").read_text())["arms"]]


def test_a_small_sweep(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(Sweep, "start", lambda swept, arm, place: Ended(one_arm.do(swept.run.root, arm)))
    monkeypatch.setattr(side_by_side, "POLL_SECONDS", 0)
    root = tmp_path / "run"
    command("sweep", recipe, "--over", "weighting.weights.prose=1", "--seeds", "0,1", "--run-dir", root)
    told = json.loads((root / "sweep.json").read_text())
    assert [(row["state"], row["steps"], row["questions"]) for row in told["arms"]] == [("done", 4, 4)] * 2
    models = exported(root)
    assert len(set(models.values())) == 2, "seeds make students of their own"

    alone = tmp_path / "alone"  # the same training as an arm's of a run that nobody sweeps
    arms = {"other": {"weighting": {"weights": {"prose": 1}}, "seed": 1}}
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "arms": arms}))
    command("run", recipe, "--run-dir", alone, "--until", "plan")
    command("train", alone, "--arm", "other")
    assert (alone / "arms/other/train/export/model.safetensors").read_bytes() == models["prose-1_seed-1"]


@pytest.mark.soak
def test_a_sweep_that_is_killed_goes_on_to_the_same_students(recipe, tmp_path):
    """Killed with -9 while two arms train, with all that it had started left to itself; then the directory alone."""
    recipe.write_text(
        yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "train": {**TRAIN, "steps": 200, "checkpoint_every": 20}})
    )
    words = [program("tracestill"), "sweep", recipe, *GRID, "--at-once", 2, "--run-dir"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}

    def start(root):
        command = [str(word) for word in (*words, root)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert start(whole).wait(600) == 0
    process = start(killed)
    deadline = time.monotonic() + 300
    while len(list(killed.glob("arms/*/train/checkpoints/step-*"))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    again = subprocess.run(
        [str(program("tracestill")), "sweep", str(killed)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert again.returncode == 0, again.stderr
    assert "taken over from" in again.stderr
    assert exported(killed) == exported(whole)
    told = [json.loads((root / "sweep.json").read_text()) for root in (whole, killed)]
    assert told[0]["pairs"] == told[1]["pairs"]
    left = [p for p in psutil.process_iter(["cmdline"]) if str(killed) in " ".join(p.info["cmdline"] or ())]
    assert left == []
    shutil.rmtree(RunDirectory.open(killed).root)
