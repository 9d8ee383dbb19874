"""docs/start.md, typed as it stands: the file that it makes, what `init` says of it, and, in full, the whole of it."""

import re

import pytest
import yaml
from doc_pages import blocks
from typer.testing import CliRunner

from tracestill.launch import cli
from tracestill.launch.commands.init import init_recipe
from tracestill.launch.commands.init.init_recipe import Machine

PAGE = [each for each in blocks() if each.page == "start.md"]
OF = {language: [each.text for each in PAGE if each.language == language] for language in ("python", "shell", "text")}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(init_recipe, "this_machine", lambda: Machine(0, 2))
    exec(OF["python"][0], {})  # noqa: S102  # what the page tells its reader to run
    return tmp_path


def said(*words):
    done = CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_init_says_what_the_page_says(folder):
    told = said("init", "sums.jsonl")
    (shown,) = [text for text in OF["text"] if text.startswith("sums.jsonl: read as")]
    for line in shown.strip().splitlines():
        assert line.strip() in told or line.strip() == "...", line
    recipe = yaml.safe_load((folder / "sums.yaml").read_text())
    for key, value in re.findall(r"--set ([\w.]+)=(\S+)", "\n".join(OF["shell"])):
        assert key.partition(".")[0] in recipe, (key, value)


def same(line):
    return " ".join(line.split())


def test_the_data_are_those_that_the_page_shows(folder):
    said("init", "sums.jsonl")
    told = [same(line) for line in said("run", "sums.yaml", "--until", "plan").splitlines()]
    (shown,) = [text for text in OF["text"] if text.startswith("sample ")]
    shown = [same(line) for line in shown.splitlines() if line.startswith(("sample", "select", "encode", "plan"))]
    assert len(shown) == 4
    for line in shown:
        assert any(re.fullmatch(re.escape(line) + r" \[[\d.]+ s\]", each) for each in told), line


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_every_command_of_the_page_is_taken_and_ends_well(folder):
    for text in OF["shell"]:
        for line in text.splitlines():
            words = line.partition("#")[0].split()
            if words[:1] == ["tracestill"] and words[1] != "watch":
                said(*words[1:])
    for run in ("sums", "short", "weighed"):
        assert (folder / f"runs/{run}/report/report.html").exists()
