"""SIGTERM and the time limit, as a cluster's scheduler and a user meet them: saved, exit code 3, and on it goes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from distributed_support import OF_A_LAUNCHER
from fake_run import RECIPE, run_data_stages

from tracestill.trainer.recipe import load_recipe
from tracestill.trainer.run_directory import RunDirectory

STUDENT = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
SMALL = {
    "student": {"config": STUDENT},
    "train": {"steps": 5_000, "ranks": 2, "log_every": 1},
    "arms": {},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose training outlasts every test."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **SMALL}))
    run_data_stages(RunDirectory.create(folder / "run", load_recipe(folder / "recipe.yaml")))
    return folder / "run"


def launch(*command: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    return subprocess.Popen(
        [str(part) for part in command],
        env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it says until its end, on both streams; no process outlives the call."""
    try:
        return "".join(process.communicate(timeout=150))
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def steps(run: Path) -> list[int]:
    log = run / "arms/traces/train/log.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [line["step"] for line in map(json.loads, (text for text in lines if text.endswith("}"))) if "loss" in line]


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 150
    while not (steps(run) and steps(run)[-1] >= step):
        assert process.poll() is None, ended(process)
        assert time.monotonic() < deadline, ended(process)
        time.sleep(0.05)


def stopped_at(run: Path, reason: str) -> int:
    """The step after which training stopped, with all of it saved."""
    directory = run / "arms/traces/train"
    marker = json.loads((directory / "stopped.json").read_text())
    assert marker["reason"] == reason
    assert steps(run)[-1] == marker["step"]
    newest = max((directory / "checkpoints").iterdir())
    assert newest.name == f"step-{marker['step']:06d}"
    assert (newest / "manifest.json").exists()
    assert not (directory / "manifest.json").exists(), "it has not finished"
    return marker["step"]


def test_sigterm_saves_and_training_goes_on_until_its_time_is_up(run):
    process = launch(Path(sys.executable).with_name("tracestill"), "train", run)
    wait_for_step(run, 3, process)
    os.kill(process.pid, signal.SIGTERM)  # to the parent only, as a scheduler does
    said = ended(process)
    assert process.returncode == 3, said
    first = stopped_at(run, "SIGTERM")
    assert f"stopped after step {first} of 5000" in said
    assert "Traceback" not in said

    # What a rank itself ends with; and one rank goes on from the checkpoint of two.
    RunDirectory.create(run, load_recipe(run / "recipe.yaml", ["train.stop_after=0.5s"]))
    process = launch(sys.executable, "-m", "tracestill.trainer.train", "--run-dir", run, "--resume", "auto")
    said = ended(process)
    assert process.returncode == 3, said
    assert stopped_at(run, "train.stop_after") == first + 1, "the time began with the process"
    assert steps(run) == [*range(1, first + 2)]
