"""Training from the repository root, in the three ways that people start it, with Hugging Face's ``kernels`` around.

The repository has folders called ``kernels``, ``trainer`` and ``launch``, and transformers imports a distribution
called ``kernels``: from the root, and with the root on PYTHONPATH, everybody must still get their own.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from command_line import program, start, unfinish
from distributed_support import free_port
from fake_run import RECIPE

SMALL = {
    "train": {"steps": 3, "ranks": 2, "zero": 2, "log_every": 1, "checkpoint_every": 2},
    "evaluate": {"max_new_tokens": 8},
    "arms": {},
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A whole run by the console command."""
    folder = tmp_path_factory.mktemp("entry")
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, **SMALL}))
    found = start(program("tracestill"), "run", folder / "recipe.yaml", "--run-dir", folder / "run")
    assert found.returncode == 0, found.stderr
    return folder / "run"


def steps_logged(run: Path) -> list[int]:
    lines = (run / "arms/traces/train/log.jsonl").read_text().splitlines()
    return [line["step"] for line in map(json.loads, lines) if "loss" in line]


def test_console_command(trained):
    assert steps_logged(trained) == [1, 2, 3]
    found = json.loads((trained / "report/report.json").read_text())
    assert found["missing"] == []
    assert found["arms"]["traces"]["evaluation"]["questions"] == 4
    train = trained / "arms/traces/train"
    rows = json.loads((train / "preview.json").read_text())["kinds"]
    assert sum(row["loss_share"] for row in rows) == pytest.approx(1.0)
    console = (train / "console.log").read_text()
    assert all(re.search(rf"^\W*{row['kind']}\b.*\d", console, re.MULTILINE) for row in rows), "the table is printed"
    (timed,) = (row for row in found["stages"] if row["stage"] == "train")
    assert timed["seconds"] > json.loads((train / "manifest.json").read_text())["seconds"], "launcher and imports too"
    again = start(program("tracestill"), "run", trained)
    assert again.stderr.count("up to date, skipped") == 7, again.stderr


def test_deepspeed_with_a_hostfile_and_module(trained, tmp_path):
    """One host without sshd: the launcher needs the address, and no look through ssh."""
    run = unfinish(trained, tmp_path)
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost slots=2\n")
    launcher = (program("deepspeed"), "--hostfile", hosts, "--no_ssh_check", "--master_addr", "127.0.0.1")
    found = start(
        *(*launcher, "--master_port", free_port()),
        *("--module", "tracestill.trainer.train", "--run-dir", run, "--resume", "auto"),
    )
    assert found.returncode == 0, found.stdout + found.stderr
    assert (run / "arms/traces/train/manifest.json").exists()
    assert steps_logged(run) == [1, 2, 3]


def test_python_module_alone(trained, tmp_path):
    run = unfinish(trained, tmp_path)
    shutil.rmtree(run / "arms/traces/train")
    found = start(sys.executable, "-m", "tracestill.trainer.train", "--run-dir", run)
    assert found.returncode == 0, found.stderr
    assert steps_logged(run) == [1, 2, 3]
