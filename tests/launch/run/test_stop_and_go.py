"""SIGTERM, the time limit, Ctrl-C and a lost terminal, as schedulers and users meet them: saved, and on it goes."""

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
import yaml
from distributed_support import OF_A_LAUNCHER
from fake_run import RECIPE, run_data_stages
from planted import BY_HAND, plant, sprung, unplant

from tracestill.trainer.recipe.recipe import load_recipe
from tracestill.trainer.recipe.run_directory import RunDirectory

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
def data(tmp_path_factory) -> Path:
    """A run whose training outlasts every test, with nothing trained."""
    folder = tmp_path_factory.mktemp("long")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **SMALL}))
    run_data_stages(RunDirectory.create(folder / "run", load_recipe(folder / "recipe.yaml")))
    return folder / "run"


@pytest.fixture
def run(data, tmp_path) -> Path:
    """One of its own."""
    return shutil.copytree(data, tmp_path / "run")


@pytest.fixture
def alone(run) -> Path:
    """The same, trained by one rank: where what its ranks agree on is not the matter."""
    RunDirectory.create(run, load_recipe(run / "recipe.yaml", ["train.ranks=1"]))
    return run


def launch(here: Path, *command: object) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=here,
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


def test_sigterm_saves_and_training_goes_on_until_its_time_is_up(run, tmp_path):
    plant(tmp_path)
    process = launch(tmp_path, Path(sys.executable).with_name("tracestill"), "train", run)
    wait_for_step(run, 3, process)
    os.kill(process.pid, signal.SIGTERM)  # to the parent only, as a scheduler does
    said = ended(process)
    assert process.returncode == 3, said
    first = stopped_at(run, "SIGTERM")
    assert f"stopped after step {first} of 5000" in said
    assert "Traceback" not in said
    assert sprung(tmp_path) == [], "launchers and ranks import nothing from the working directory"

    # What a rank itself ends with; and one rank goes on from the checkpoint of two.
    RunDirectory.create(run, load_recipe(run / "recipe.yaml", ["train.stop_after=0.01s"]))
    unplant(tmp_path)
    plant(tmp_path, BY_HAND)
    process = launch(tmp_path, sys.executable, "-m", "tracestill.trainer.train", "--run-dir", run, "--resume", "auto")
    said = ended(process)
    assert process.returncode == 3, said
    assert stopped_at(run, "train.stop_after") == first + 1, "the time began with the process"
    assert steps(run) == [*range(1, first + 2)]
    assert sprung(tmp_path) == []


def take_terminal() -> None:
    """In the child: its terminal sends it signals, whatever whoever runs the tests ignores."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


class Terminal:
    """A command at a terminal of its own: what is typed reaches it as a user's keys do."""

    def __init__(self, *command: object) -> None:
        self.ours, theirs = pty.openpty()
        environment = {key: value for key, value in os.environ.items() if key not in OF_A_LAUNCHER}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            env={**environment, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "TERM": "dumb", "COLUMNS": "400"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=take_terminal,
        )
        os.close(theirs)
        self.said = ""

    def read(self, seconds: float = 0.05) -> None:
        while select.select([self.ours], [], [], seconds)[0]:
            try:
                data = os.read(self.ours, 1 << 16)
            except OSError:  # the other end is closed
                return
            if not data:
                return
            self.said += data.decode(errors="replace")

    def wait_for(self, condition, what: str) -> None:
        deadline = time.monotonic() + 150
        while not condition():
            assert time.monotonic() < deadline, f"no {what}: {self.said}"
            assert what == "end" or self.process.poll() is None, f"ended, no {what}: {self.said}"
            self.read()

    def type(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> tuple[int, str]:
        """Exit code and what was said, white space joined; nothing of it is left."""
        self.wait_for(lambda: self.process.poll() is not None, "end")
        self.read(0.5)
        return self.process.returncode, " ".join(self.said.split())

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        with contextlib.suppress(OSError):
            os.close(self.ours)


PROGRAM = Path(sys.executable).with_name("tracestill")


def ranks_of(run: Path) -> list[int]:
    """Processes that train the run."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and str(run).encode() in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def test_ctrl_c_saves_and_twice_ends_at_once_and_what_is_said_is_true(run):
    with Terminal(PROGRAM, "train", run) as terminal:
        terminal.wait_for(lambda: len(steps(run)) > 3, "steps")
        terminal.type(b"\x03")
        code, said = terminal.end()
    assert code == 3, said
    saved = stopped_at(run, "Ctrl-C")
    assert "Ctrl-C: training saves after this step and stops" in said
    assert "press Ctrl-C again to stop now, without saving" in said
    assert f"stopped after step {saved} of 5000 (Ctrl-C) and is saved" in said
    assert not ranks_of(run)

    with Terminal(PROGRAM, "train", run) as terminal:
        terminal.wait_for(lambda: steps(run)[-1] > saved + 3, "steps of the second attempt")
        for rank in ranks_of(run):  # they cannot save now, as in the middle of a long step
            if rank != terminal.process.pid:
                os.kill(rank, signal.SIGSTOP)
        terminal.type(b"\x03")
        terminal.wait_for(lambda: "again to stop now" in terminal.said, "word of the first Ctrl-C")
        began = time.monotonic()
        terminal.type(b"\x03")
        code, said = terminal.end()
    assert code == 130, said
    assert time.monotonic() - began < 60, "not the minutes of a step"
    told = re.search(
        r"interrupted in the training of traces: step (\d+) of 5000 is saved; the same command goes on", said
    )
    assert told, said
    assert int(told[1]) == saved
    done = steps(run)[-1]
    assert f"does {done - saved} steps and what was done of the next again" in said
    assert "Traceback" not in said
    assert not ranks_of(run), "no rank is left"


def test_ctrl_c_before_the_first_step_ends_at_once_and_says_that_nothing_is_lost(alone):
    with Terminal(PROGRAM, "train", alone) as terminal:
        terminal.wait_for(lambda: "starting 1 rank(s)" in " ".join(terminal.said.split()), "start")
        terminal.type(b"\x03")
        code, said = terminal.end()
    assert code == 130, said
    assert "no step of the training was done; the same command begins it anew" in said
    assert not ranks_of(alone)


def test_a_terminal_that_goes_away_is_a_request_to_stop(alone):
    with Terminal(PROGRAM, "train", alone) as terminal:
        terminal.wait_for(lambda: len(steps(alone)) > 3, "steps")
        os.close(terminal.ours)
        assert terminal.process.wait(timeout=150) == 3
    stopped_at(alone, "SIGHUP (the terminal has gone)")
    assert not ranks_of(alone)
