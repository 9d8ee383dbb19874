"""Every command that writes into a run directory has it alone; those that only look, and the report, need not wait."""

import os
import shutil
import signal
import subprocess
import threading
import time

import pytest
import yaml
from command_line import ROOT, program
from fake_run import RECIPE, claim, mini_recipe, run_data_stages
from typer.testing import CliRunner

from tracestill.data_pipeline.sampling import sample
from tracestill.data_pipeline.sampling.journal import Journal
from tracestill.launch import cli
from tracestill.launch.run import stages
from tracestill.trainer import train
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.lock.run_lock import LOCK, held


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    run = claim(tmp_path_factory.mktemp("made") / "run", mini_recipe(arms={}))
    run_data_stages(run)
    return run


WAITING = """
import time
from pathlib import Path
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Solution

class TeacherOptions(BaseModel):
    pass

class Teacher:
    def __init__(self, options):
        self.asked = 0

    def solve(self, question, *, style, temperature, seed):
        self.asked += 1
        if self.asked == 3:
            Path(__file__).with_name("waits").touch()
            time.sleep(600)
        return Solution("First think.", "1")
"""


def invoke(*words):
    return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "200"})


@pytest.mark.parametrize("words", [("run",), ("train",), ("evaluate", "--model", "x=.")], ids=" ".join)
def test_a_run_of_another_recipe_is_refused_before_anything_is_looked_at(made, words, monkeypatch):
    monkeypatch.setattr(stages, "plan_works", lambda *_: pytest.fail("it takes seconds"))
    found = invoke(words[0], made.root, *words[1:], "--set", "seed=7")
    assert found.exit_code == 2, found.output
    assert f"{made.root} holds another recipe (differs in seed)" in found.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("run",),
        ("run", "--until", "plan"),
        ("sample",),
        ("sample", "--recover"),
        ("select",),
        ("encode",),
        ("plan",),
        ("train",),
        ("evaluate", "--model", "x=."),
        ("bench",),
    ],
    ids=" ".join,
)
def test_what_writes_has_the_run_alone(made, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with held(made.root):
        found = invoke(words[0], made.root, *words[1:])
        assert found.exit_code == 2, found.output
        (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
        assert line.startswith(f"error: {made.root}: in use by `")
        assert f"process {os.getpid()} on " in line
    assert not (made.root / LOCK).exists()


def test_so_do_the_modules_that_are_started_by_hand(made, capsys, monkeypatch):
    for name in ("RANK", "TRACESTILL_OWNER"):
        monkeypatch.delenv(name, raising=False)
    with held(made.root):
        assert train.main(["--run-dir", str(made.root)]) == 2
        assert evaluate.main(["--run-dir", str(made.root)]) == 2
    assert capsys.readouterr().err.count("in use by") == 2


@pytest.mark.parametrize(
    "words", [("inspect",), ("diff", "."), ("recipe", "--resolved"), ("report",), ("train", "--dry-run")], ids=" ".join
)
def test_what_looks_does_not_wait(made, words, monkeypatch):
    monkeypatch.chdir(made.root)
    with held(made.root):
        found = invoke(words[0], made.root, *words[1:])
        assert found.exit_code == 0, found.output
        assert [path.name for path in made.root.glob(".lock*")] == [LOCK]


def test_two_reports_at_a_time_follow_one_another(made, monkeypatch):
    entered, real = threading.Event(), stages.held

    def slow(*arguments, **more):
        entered.set()
        return real(*arguments, **more)

    monkeypatch.setattr(stages, "held", slow)
    with held(made.root / stages.REPORT_LOCK):
        thread = threading.Thread(target=lambda: print(invoke("report", made.root).output))
        shutil.rmtree(made.root / "report", ignore_errors=True)
        thread.start()
        assert entered.wait(20)
        assert not (made.root / "report").exists()
    thread.join(20)
    assert (made.root / "report/report.html").is_file()
    assert not list(made.root.glob(".lock*"))


def test_a_refused_directory_gets_no_lock(tmp_path, made):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs/notes.txt").write_text("mine")
    found = invoke("sample", made.root / "recipe.yaml", "--run-dir", tmp_path / "theirs")
    assert (found.exit_code, "not a run directory" in found.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "theirs").iterdir()] == ["notes.txt"]


def test_a_damaged_journal_is_recovered_by_the_command_that_is_told(made, tmp_path):
    run = claim(tmp_path / "run", made.recipe)
    assert invoke("sample", run.root).exit_code == 0
    shutil.rmtree(run.root / "sample")
    with run.journal.open("r+b") as file:
        file.write(b"\xaa" * 4096)
    found = invoke("sample", run.root)
    assert found.exit_code == 2
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("error: ")]
    assert f"40 samples can be read from it: `tracestill sample {run.root} --recover` takes them over" in line
    found = invoke("sample", run.root, "--recover")
    assert found.exit_code == 0, found.output
    assert "made anew from what can be read of" in found.stderr
    assert "40 records (40 from the journal)" in found.stderr
    assert (run.root / "journal.damaged-1.sqlite").exists()
    assert (run.root / "sample/records.parquet").read_bytes() == (made.root / "sample/records.parquet").read_bytes()


def test_two_commands_and_one_that_is_killed(tmp_path, made, monkeypatch):
    """The second ends with a line; after the first was killed a third goes on from its journal at once."""
    recipe = tmp_path / "recipe.yaml"
    teachers = [{"name": "solver", "use": "waiting_teacher"}]
    recipe.write_text(yaml.safe_dump({**RECIPE, "arms": {}, "sample": {"teachers": teachers}}))
    (tmp_path / "waiting_teacher.py").write_text(WAITING)
    command = [program("tracestill"), "sample", recipe, "--run-dir", tmp_path / "run"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen([str(word) for word in command], env=environment, stderr=subprocess.DEVNULL)
    try:
        journal, deadline = tmp_path / "run/journal.sqlite", time.monotonic() + 60
        while not (tmp_path / "waits").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None
            time.sleep(0.02)
        found = invoke(*command[1:])
        assert found.exit_code == 2
        assert f"process {first.pid} on " in found.stderr
        assert first.poll() is None, "it goes on"
    finally:
        first.send_signal(signal.SIGKILL)
        first.wait()
    with Journal(journal) as book:
        before = book.count()
    assert (tmp_path / "run" / LOCK).exists()
    seen = []

    def interrupted(*arguments, **more):
        seen.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(sample.Asking, "run", interrupted)
    found = invoke(*command[1:])
    assert (found.exit_code, len(seen)) == (130, 1)
    assert f"taken over from `tracestill sample {recipe}" in found.stderr
    with Journal(journal) as book:
        assert book.count() == before == 2
    assert not (tmp_path / "run" / LOCK).exists()
