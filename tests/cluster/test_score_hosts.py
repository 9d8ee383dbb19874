"""`tracestill score RUN --hostfile FILE`: ranks of two hosts write the bytes that those of one write."""

import json
import shutil
import sys
from pathlib import Path

import cluster_support
import pytest
from forked_command import command

RECIPE = Path(__file__).parents[2] / "recipes/demo.yaml"
PROGRAM = Path(sys.executable).with_name("tracestill")
REASON = cluster_support.why_impossible()
SCORE = {"base": {"model": "student", "channels": ["nll", "influence", "topk"], "k": 4}}
SMALL = {
    "questions.train": 60,
    "questions.test": 8,
    "train.ranks": 2,
    "score": json.dumps(SCORE),
    "arms": "{}",
}
pytestmark = [
    pytest.mark.soak,
    pytest.mark.skipif(bool(REASON), reason=f"NO HOSTS CAN BE MADE HERE: {REASON}"),
]


def written(run: Path) -> dict[str, bytes]:
    """The files of the scorer's channels."""
    return {path.name: path.read_bytes() for path in (run / "arms/traces/score/base").glob("*.arrow")}


def test_two_hosts_score_as_one_does(tmp_path):
    settings = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    alone, run = tmp_path / "alone", tmp_path / "run"
    command("run", RECIPE, "--run-dir", alone, *settings, "--until", "encode")
    shutil.copytree(alone, run)
    command("score", alone)
    with cluster_support.hosts(tmp_path / "hosts", 2) as hosts:
        found = hosts.run(PROGRAM, "score", run, "--hostfile", hosts.hostfile("a", "b"))
        assert found.returncode == 0, found.stdout + found.stderr
        assert hosts.processes("a") == hosts.processes("b") == []
    assert "'a': [0], 'b': [1]" in (run / "launch/traces/score-base/console.log").read_text()
    assert len(written(run)) > 1
    assert written(run) == written(alone)
    again = command("score", run)
    assert "up to date" in again.stdout + again.stderr, "one host takes what two have written"
