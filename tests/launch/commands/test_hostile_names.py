"""A run whose directory, recipe, questions and traces are meant for the terminal, not for its reader."""

import io
import json
from html.parser import HTMLParser

import pytest
import yaml
from fake_run import RECIPE, claim, mini_recipe, write_train
from typer.testing import CliRunner

from tracestill.data_pipeline.guards.visible import HIDDEN, visible
from tracestill.launch import cli
from tracestill.launch.run import training
from tracestill.launch.run.runner import run_stages
from tracestill.launch.run.stages import plan_works
from tracestill.trainer.ranks.console import Terminal
from tracestill.trainer.recipe.recipe import dump_recipe, load_recipe

NAME = "[red]x[none] [brackets] \x1b[31m\u202e"
TRICK = "\x1b]0;owned\x07 [bold]9[/] \x9b2J \u202etxt.exe\r"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of that name with a run up to its plan, of questions and traces with control characters."""
    folder = tmp_path_factory.mktemp("names") / NAME
    folder.mkdir()
    lines = [{"question": f"How much is {n} + 1? {TRICK}", "gold": str(n + 1)} for n in range(8)]
    (folder / "q [b].jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "mine.py").write_text(TEACHER)
    recipe = {**RECIPE, "arms": {}, "select": {"policy": "none"}}
    recipe["questions"] = {"source": "q [b].jsonl", "train": 6, "test": 2}
    recipe["sample"] = {"teachers": [{"name": "solver", "use": "mine"}]}
    recipe["weighting"] = {"weights": {"prompt": 0}}
    (folder / "mini.yaml").write_text(yaml.safe_dump(recipe))
    return folder


TEACHER = f"""
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Solution
class TeacherOptions(BaseModel):
    pass
class Teacher:
    def __init__(self, options): pass
    def solve(self, question, *, seed, style, temperature):
        return Solution({TRICK!r} + f" so it is {{seed % 9}}", "2")
"""


def clean(text: str) -> str:
    """What a command printed: nothing in it is obeyed, and no markup was read."""
    assert not HIDDEN.search(text), HIDDEN.search(text)
    return text


def invoke(*words: object):
    found = CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "400"})
    clean(found.stdout)
    clean(found.stderr)
    return found


def test_every_command_shows_it_and_obeys_nothing(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    run = folder / "runs [b]"
    said = invoke("run", folder / "mini.yaml", "--run-dir", run, "--until", "plan")
    assert said.exit_code == 0, said.output
    found = invoke("inspect", run, "--documents", 3).stdout
    assert "\\x1b" in found
    assert "[bold]9[/]" in found.replace("|", "")
    text = invoke("inspect", run, "--text").stdout
    assert visible(TRICK).strip() in text
    assert invoke("recipe", run, "--resolved").exit_code == 0
    dry = invoke("train", run, "--dry-run")
    assert dry.exit_code == 0, dry.output
    assert visible(str(run)) in dry.stdout
    assert invoke("run", folder / "mini.yaml", "--run-dir", run, "--until", "plan").exit_code == 0
    assert invoke("diff", run, run).exit_code == 0
    assert "[red]x[none] [brackets] \\x1b[31m\\u202e/none" in invoke("inspect", folder / "none").stderr
    refused = invoke("run", folder / "mini.yaml", "--set", "questions.source=x[none] [brackets].jsonl")
    assert refused.exit_code == 2
    assert "x[none] [brackets].jsonl" in refused.stderr


def test_a_recipe_means_the_same_when_it_is_written_out(tmp_path):
    recipe = mini_recipe(name="mini", sample={"teachers": [{"name": "[red]x"}], "styles": [TRICK]})
    text = dump_recipe(recipe)
    assert visible(text) == text
    (tmp_path / "again.yaml").write_text(text)
    assert load_recipe(tmp_path / "again.yaml") == recipe


class Shown(HTMLParser):
    """The text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_report_shows_it_too(tmp_path, monkeypatch):
    monkeypatch.setattr("fake_run.HOSTILE", TRICK)
    run = claim(tmp_path / NAME)
    write_train(run, "traces", finished=False)
    console = Terminal(file=io.StringIO(), width=400)
    work = plan_works(run)[-1]
    run_stages([work], console)
    clean(console.file.getvalue())
    page = Shown()
    page.feed((work.directory / "report.html").read_text())
    clean(page.text)
    assert visible(TRICK) in page.text


@pytest.mark.parametrize("colours", [True, False])
def test_the_preview_while_training_starts(tmp_path, monkeypatch, colours):
    monkeypatch.setattr("fake_run.HOSTILE", TRICK)
    run = claim(tmp_path / "run")
    write_train(run, "traces", finished=False)
    console = Terminal(file=io.StringIO(), width=400, force_terminal=colours, color_system=None)
    training.show_preview(run.stage("traces", "train") / "preview.json", run.recipe.span_kinds(), console)
    shown = console.file.getvalue()
    clean(shown)
    assert shown.count(visible(TRICK)) == 2, "a token, and a warning"
