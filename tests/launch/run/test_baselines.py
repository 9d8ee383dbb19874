"""Baselines by the command line: an arm that is not trained, and any model beside the arms."""

import json
import shutil
from pathlib import Path

import chat_templates as made
import pytest
import yaml
from fake_run import RECIPE
from tiny_export import tiny_model
from typer.testing import CliRunner

from tracestill.launch import cli


def write_recipe(path: Path, **changes: object) -> Path:
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A small recipe as a file; runs are made below tmp_path."""
    monkeypatch.chdir(tmp_path)
    return write_recipe(tmp_path / "mini.yaml")


def invoke(*arguments: object):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"})


def refused(*arguments: object) -> list[str]:
    """Lines on stderr of a command that must refuse its input."""
    result = invoke(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    return [line.removeprefix("error: ") for line in result.stderr.splitlines() if line.startswith("error: ")]


def test_any_model_is_evaluated_beside_the_arms(recipe, tmp_path):
    made.save(tmp_path / "instruct", made.CHATML)
    tiny_model(vocab_size=500, max_position_embeddings=512).save_pretrained(tmp_path / "instruct")
    given = ("evaluate", recipe, "--model", tmp_path / "instruct", "--set", "evaluate.max_new_tokens=9")
    (line,) = refused(*given)
    assert "evaluate: needs 'sample', which has not run" in line
    assert invoke("sample", recipe, *given[4:]).exit_code == 0
    first = invoke(*given)
    assert first.exit_code == 0, first.output
    assert "of 4 questions right" in first.stderr
    assert "next: tracestill report runs/mini" in first.stderr
    assert "up to date, skipped" in invoke(*given).stderr
    assert invoke("report", "runs/mini").exit_code == 0
    assert json.loads(Path("runs/mini/report/report.json").read_text())["models"].keys() == {"instruct"}
    (tmp_path / "other" / "instruct").mkdir(parents=True)
    (line,) = refused("evaluate", "runs/mini", "--model", tmp_path / "other/instruct")
    assert f"'instruct' is {tmp_path / 'instruct'} in this run; give it a name: --model NAME=" in line
    (line,) = refused("evaluate", "runs/mini", "--model", f"it={tmp_path / 'other/instruct'}")
    assert "no model of transformers" in line
    shutil.copytree(tmp_path / "instruct", tmp_path / "moved")
    assert "up to date, skipped" in invoke(*given[:3], f"instruct={tmp_path / 'moved'}", *given[4:]).stderr
    (line,) = refused("evaluate", "runs/mini", "--model", f"traces={tmp_path / 'instruct'}")
    assert "'traces' is an arm of the run" in line
    (line,) = refused("evaluate", "runs/mini", "--model", "nowhere")
    assert "no such directory; expected DIR or NAME=DIR" in line
    (line,) = refused("evaluate", "runs/mini", "--model", f"../up={tmp_path / 'instruct'}")
    assert "is no name for it" in line
    assert invoke("evaluate", "runs/mini", "--model", tmp_path / "instruct", "--arm", "traces").exit_code == 2


def test_an_arm_that_is_not_trained_needs_no_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe = write_recipe(tmp_path / "mini.yaml", arms={"before": {"train": "none"}}, evaluate={"max_new_tokens": 9})
    assert invoke("run", recipe, "--until", "encode").exit_code == 0
    done = invoke("evaluate", recipe, "--arm", "before")
    assert done.exit_code == 0, done.output
    assert "evaluate before" in done.stderr
    for command in (("train", recipe), ("plan", recipe), ("bench", recipe), ("kubernetes", recipe)):
        more = ("--image", "i", "--claim", "c", "--nodes", "1", "--gpus", "1") if command[0] == "kubernetes" else ()
        (line,) = refused(*command, "--arm", "before", *more)
        assert "--arm before: its student is not trained (train: none)" in line
    assert invoke("slurm", recipe, "--nodes", "1", "--gpus", "1", "--time", "1h").exit_code == 0
    assert "for arm in traces; do" in Path("mini.sbatch").read_text()
