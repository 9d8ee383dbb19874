"""docs/verifiers.md, typed as it stands: its data, its function, what is kept by it, and why the rest is not."""

import contextlib
import io
import re

import pyarrow.parquet as pq
import pytest
import yaml
from doc_pages import blocks
from typer.testing import CliRunner

from tracestill.launch import cli

PAGE = [each for each in blocks() if each.page == "verifiers.md"]
OF = {language: [each.text for each in PAGE if each.language == language] for language in ("python", "shell", "text")}
DATA, FUNCTION, TRIED, LOOKED_AT = OF["python"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(DATA, {})  # noqa: S102  # what the page tells its reader to run
    (tmp_path / "coins.py").write_text(FUNCTION)
    return tmp_path


def said(line):
    done = CliRunner().invoke(cli.app, line.split()[1:], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_the_function_says_what_the_page_says(folder):
    exec(TRIED, {})  # noqa: S102


def test_it_decides_what_is_kept_and_its_words_are_kept_too(folder):
    init, run = OF["shell"][0].splitlines()
    said(init)
    told = said(run)
    assert "the recipe imports coins (verify.use):" in told
    (shown,) = OF["text"]
    for line in shown.splitlines():
        want = " ".join(line.split())
        assert want in " ".join(told.split()), (want, told)
    (block,) = [each.text for each in PAGE if each.language == "yaml"]
    recipe = folder / "coins.yaml"
    recipe.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), **yaml.safe_load(block)}))
    assert "up to date" in said("tracestill run coins.yaml --until select"), "the same as --set"
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(LOOKED_AT, {})  # noqa: S102
    assert re.search(r"wrong_answer \| [\d +]*\b30\b[\d +]* \| .*no such coin: 30", out.getvalue())
    right = pq.read_table("runs/coins/select/records.parquet")["answer"].to_pylist()
    assert all(set(answer.split(" + ")) <= {"50", "20", "10", "5", "2", "1"} for answer in right)
    assert len(right) > 500
