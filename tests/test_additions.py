"""What users add touches two files: their own, and the recipe (or the command line). Here: a teacher, a stage, a
launcher; a weighting and an attention backend are added in the rooms' own tests."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from fake_run import RECIPE
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch import cli
from tracestill.launch.hosts.cluster import Rendezvous, Survey, read_cluster
from tracestill.launch.hosts.launchers import LAUNCHERS
from tracestill.launch.hosts.remote import Reply
from tracestill.launch.run.stages import STAGES, command_names
from tracestill.launch.start import multinode
from tracestill.trainer.recipe.recipe import load_recipe

TEACHER = """
from pydantic import BaseModel
from tracestill.data_pipeline.sampling.teachers import Solution

class TeacherOptions(BaseModel):
    word: str = "so"

class Teacher:
    def __init__(self, options):
        self.word = options.word

    def solve(self, question, *, style, temperature, seed):
        return Solution(f"Add the digits, {self.word} it is.", question.gold)
"""


def from_docs(page: str, name: str) -> str:
    """The block of Python that a page shows under this name of a variable."""
    blocks = (ROOT / "docs" / page).read_text(encoding="utf-8").split("```python\n")[1:]
    (found,) = [text for text in (block.split("```")[0] for block in blocks) if f"\n{name} = " in text]
    return found


ROOT = Path(__file__).parents[1]
STAGE = from_docs("runs.md", "LENGTHS")
WORDS = """
def summary(manifest, directory):
    return f"{manifest['counts']['out']} short traces"

LENGTHS = StageSpec("", lambda case: ({}, case.reads("select")), count, summary,
                    lambda found: f"<h2>Lengths of {found['name']}</h2>", per_arm=False, Options=Options)
"""
LAUNCHER = from_docs("multi-node.md", "RUNNER")


def invoke(*words: object) -> Any:
    return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": "200"})


def write_recipe(folder: Path, **changes: Any) -> Path:
    path = folder / "mini.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, **changes}))
    return path


def outcome(result: Any) -> dict[str, str]:
    """Label -> what was said of each stage."""
    assert result.exit_code == 0, result.output
    lines = [line.split(maxsplit=1) for line in result.output.splitlines()]
    return {words[0]: words[1] for words in lines if len(words) == 2}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_teacher(folder):
    (folder / "my_teacher.py").write_text(TEACHER)
    teacher = {"name": "mine", "use": "my_teacher", "options": {"word": "thus"}}
    recipe = write_recipe(folder, sample={"teachers": [teacher], "samples": 1})
    ran = invoke("run", recipe, "--run-dir", "run", "--until", "sample")
    assert "16 records" in outcome(ran)["sample"], "of 12 training questions and 4 held-out ones"
    assert set(pq.read_table("run/sample/records.parquet")["trace"].to_pylist()) == {"Add the digits, thus it is."}


def test_a_checker_of_traces(folder):
    """As docs/selection.md writes one; an edit of its file selects anew."""
    own = from_docs("selection.md", "DAY").replace(r"\b(\d+) (?:May|June|July)\b", r"=(\d+)").replace("> 31", "> 12")
    (folder / "my_checks.py").write_text(own)
    recipe = write_recipe(folder, arms={}, select={"checks": ["equations", "my_checks:dates"]})
    told = outcome(invoke("run", recipe, "--run-dir", "run", "--until", "select"))["select"]
    assert "false step" in told
    rejected = pq.read_table("run/select/rejected.parquet").to_pylist()
    details = [row["detail"] for row in rejected if row["reason"] == "false_step"]
    assert details
    assert all(re.fullmatch(r"my_checks:dates, step \d+: no month has a day \d+", one) for one in details)
    (folder / "my_checks.py").write_text(own.replace("> 12", "> 10**9"))
    again = invoke("run", recipe, "--run-dir", "run", "--until", "select")
    assert "select.checks (my_checks.py) changed" in again.output
    assert "false step" not in outcome(again)["select"]

    said = invoke("run", write_recipe(folder, select={"checks": ["my_checks:days"]}), "--run-dir", "other").output
    assert "select.checks: 0: my_checks has no function 'days'" in said


@pytest.mark.parametrize("words", ["", WORDS])
def test_a_stage(folder, words):
    """It runs, is skipped while nothing has changed, is done anew when its input or its own file has changed, and
    stands in the summary and in the report, also where its module is not imported."""
    (folder / "my_stage.py").write_text(STAGE + words)
    where = folder / "run" / ("lengths" if words else "arms/traces/lengths")
    stages = {"lengths": {"use": "my_stage:LENGTHS", "after": "select", "options": {"most": 63}}}
    recipe = write_recipe(folder, stages=stages, arms={})
    told = outcome(invoke("run", recipe, "--run-dir", "run", "--until", "lengths"))
    traces = pq.read_table("run/select/records.parquet")["trace"].to_pylist()
    long = sum(len(trace) > 63 for trace in traces)
    assert 0 < long < len(traces)
    short = len(traces) - long
    said = f"{short} short traces" if words else f"in {len(traces)}, out {short}; rejected: too long {long}"
    assert said in told["lengths"]
    assert not (folder / "run/tokenizer").exists(), "--until knows its place"
    again = invoke("run", "run", "--until", "lengths")
    assert "up to date, skipped" in outcome(again)["lengths"]
    assert "next: tracestill encode run" in again.output
    assert "next: tracestill run run --until lengths" in invoke("select", "run").output
    assert invoke("report", "run").exit_code == 0
    html = (folder / "run/report/report.html").read_text()
    assert f"in {len(traces)}, out {short}" in html, "by its manifest alone"
    assert ">lengths</h2>" in html

    longer = ["--set", "stages.lengths.options.most=999", "--replace"]
    told = invoke("run", recipe, "--run-dir", "run", "--until", "lengths", *longer).output
    assert "done anew: options.most changed" in told
    assert "rejected" not in told.partition("options.most changed")[2]

    changed = ["--set", "select.max_per_question=1", "--replace"]
    told = invoke("run", recipe, "--run-dir", "run", "--until", "lengths", *changed).output
    assert ", select changed" in told
    assert json.loads((where / "manifest.json").read_text())["counts"]["in"] < len(traces)
    (folder / "my_stage.py").write_text(STAGE + words + "# edited\n")
    told = invoke("run", recipe, "--run-dir", "run", "--until", "lengths", *changed).output
    assert "done anew: stages.lengths.module (my_stage.py) changed" in told


def test_a_stage_has_a_section_in_the_report_of_a_whole_run(folder):
    from fake_run import report, run_data_stages, write_evaluation, write_train

    from tracestill.trainer.recipe.run_directory import RunDirectory

    (folder / "my_stage.py").write_text(STAGE + WORDS)
    stages = {"lengths": {"use": "my_stage:LENGTHS", "after": "plan"}}
    ran = invoke("run", write_recipe(folder, stages=stages, arms={}), "--run-dir", "run", "--until", "lengths")
    assert ran.exit_code == 0, ran.output
    run = RunDirectory.open(folder / "run")
    run_data_stages(run)
    write_train(run, "traces")
    write_evaluation(run, "traces", 0.5)
    report(run)
    kept = json.loads((folder / "run/select/manifest.json").read_text())["counts"]["out"]
    assert kept > 10
    assert f"lengths                 in {kept}, out {kept}" in invoke("inspect", "run").output
    html = (folder / "run/report/report.html").read_text()
    assert html.index(">Training</h2>") < html.index(">Lengths of mini</h2>") < html.index(">Data</h2>")
    found = json.loads((folder / "run/report/report.json").read_text())
    assert [row["summary"] for row in found["stages"] if row["stage"] == "lengths"] == [f"{kept} short traces"]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ({"encode": {"use": "my_stage:LENGTHS", "after": "select"}}, "stages.encode: is the name of a built-in stage"),
        ({"lengths": {"use": "my_stage:LENGTHS", "after": "selct"}}, "stages.lengths.after: no stage 'selct' before"),
        ({"lengths": {"use": "my_stage:LENGTHS", "after": "report"}}, "stages.lengths.after: no stage 'report' before"),
        ({"lengths": {"use": "my_stage:NONE", "after": "select"}}, "stages.lengths.use: my_stage has no StageSpec"),
        ({"lengths": {"use": "my_stage", "after": "select"}}, "expected an import path such as my_pkg.my_module:STAGE"),
        ({"models": {"use": "my_stage:LENGTHS", "after": "select"}}, "'models' is no name for a stage"),
        (
            {"lengths": {"use": "my_stage:LENGTHS", "after": "select", "options": {"mst": 1}}},
            "stages.lengths.options.mst: unknown key; did you mean 'most'",
        ),
    ],
)
def test_a_stage_that_is_none(folder, stages, said):
    (folder / "my_stage.py").write_text(STAGE)
    found = invoke("run", write_recipe(folder, stages=stages), "--run-dir", "run", "--until", "sample")
    assert found.exit_code == 2
    assert said in found.output
    assert not (folder / "run").exists()


LAZY = """
from pathlib import Path
from tracestill.data_pipeline.base.stage import stage
from tracestill.launch.run.stage_spec import StageSpec

def nothing(work, console):
    pass

def of_others(work, console):
    with stage(work.directory, work.stage, {}, {}):
        pass

def words(work, console):
    with stage(work.directory, work.stage, work.config, work.inputs) as writing:
        writing.counts = {"words": len(Path(work.case.recipe.stages["lengths"].options["words"]).read_text().split())}

read = lambda case: ({}, case.reads("select"))
early = lambda case: ({}, case.reads("train"))
NOTHING, OTHERS, EARLY = StageSpec("", read, nothing), StageSpec("", read, of_others), StageSpec("", early, nothing)
"""


@pytest.mark.parametrize(
    ("use", "said"),
    [
        ("NOTHING", "stages.lengths: has left no result of this work in run/arms/traces/lengths; write it in"),
        ("OTHERS", "stages.lengths: has left no result of this work in run/arms/traces/lengths; write it in"),
        ("EARLY", "stages.lengths: no stage 'train' of arm traces comes before it; known: sample, select"),
    ],
)
def test_a_stage_that_breaks_the_contract(folder, use, said):
    (folder / "my_stage.py").write_text(LAZY)
    stages = {"lengths": {"use": f"my_stage:{use}", "after": "select"}}
    found = invoke("run", write_recipe(folder, stages=stages, arms={}), "--run-dir", "run", "--until", "lengths")
    assert found.exit_code == 2
    assert f"error: {said}" in found.output


def test_a_stage_is_done_anew_when_a_file_that_its_options_name_has_changed(folder):
    more = """
from pydantic import BaseModel

class Options(BaseModel):
    words: str

WORDS = StageSpec("", read, words, Options=Options)
"""
    (folder / "my_stage.py").write_text(LAZY + more)
    (folder / "words.txt").write_text("so thus")
    stages = {"lengths": {"use": "my_stage:WORDS", "after": "select", "options": {"words": "words.txt"}}}
    ran = ("run", write_recipe(folder, stages=stages, arms={}), "--run-dir", "run", "--until", "lengths")
    assert "words 2" in outcome(invoke(*ran))["lengths"]
    assert "up to date" in outcome(invoke(*ran))["lengths"]
    (folder / "words.txt").write_text("so thus then")
    told = invoke(*ran).output
    assert "done anew: options.words changed" in told
    assert "words 3" in told


def test_a_stage_may_be_edited_while_it_runs(folder):
    more = """
def edit(work, console):
    with stage(work.directory, work.stage, work.config, work.inputs) as writing:
        Path("my_stage.py").write_text("(")
        writing.counts = {"edits": 1}

EDITED = StageSpec("", read, edit)
"""
    (folder / "my_stage.py").write_text(LAZY + more)
    stages = {"lengths": {"use": "my_stage:EDITED", "after": "select"}}
    ran = invoke("run", write_recipe(folder, stages=stages, arms={}), "--run-dir", "run", "--until", "lengths")
    assert "edits 1" in outcome(ran)["lengths"]
    assert "next: tracestill encode run" in ran.output


def test_stages_behind_the_same_one_come_in_the_recipes_order(folder):
    (folder / "my_stage.py").write_text(STAGE)
    after = {"a": "select", "b": "select", "c": "a"}
    stages = {name: {"use": "my_stage:LENGTHS", "after": stage} for name, stage in after.items()}
    names = command_names(load_recipe(write_recipe(folder, stages=stages)))
    assert names[:6] == ["sample", "select", "a", "b", "c", "encode"]


def test_the_registry_is_what_others_read():
    assert command_names() == ["sample", "select", "encode", "score", "plan", "train", "evaluate", "report"]
    assert [spec.name for spec in STAGES if spec.does_it != spec.name] == ["tokenizer"]
    commands = [command.name or command.callback.__name__ for command in cli.app.registered_commands]
    assert [name for name in commands if name in command_names()] == command_names()
    assert " → ".join(command_names()) in cli.app.info.help


def test_a_launcher(folder, monkeypatch):
    """Its file lies beside the recipe; the checks of hosts are those of every launcher."""
    (folder / "my_launcher.py").write_text(LAUNCHER)
    (folder / "hosts").write_text("w-1 slots=2\nw-2 slots=2\n")
    assert invoke("run", write_recipe(folder, arms={}), "--run-dir", "run", "--until", "plan").exit_code == 0
    train = ("train", "mini.yaml", "--run-dir", "run", "--hostfile", "hosts", "--launcher", "my_launcher:RUNNER")
    refused = invoke(*train, "--dry-run")
    assert refused.exit_code == 2
    assert "--launcher runner: my-runner is not installed on this host; install it" in refused.output

    (folder / "my-runner").write_text("#!/bin/sh\n")
    (folder / "my-runner").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    at = Rendezvous("10.9.9.1", 2345, "e7")
    answer = lambda cluster, *_: (Survey(cluster, [Reply({"cores": 4})] * 2), at)  # noqa: E731
    monkeypatch.setattr(multinode, "check_hosts", answer)
    shown = invoke(*train, "--dry-run")
    assert shown.exit_code == 0, shown.output
    assert f"--launcher imports my_launcher: {folder / 'my_launcher.py'}" in shown.output
    assert "w-2: ranks 2 to 3" in shown.output
    assert "my-runner --hosts w-1:2,w-2:2 -- " in shown.output
    assert "  MASTER_PORT=2345" in shown.output

    monkeypatch.syspath_prepend(str(folder))
    cluster = read_cluster(folder / "hosts", launcher="my_launcher:RUNNER")
    launch = multinode.prepare(cluster, folder / "run", "json.tool", ["--help"], folder / "files")
    assert launch.environment["MASTER_ADDR"] == "10.9.9.1", "as its own process has no file of DeepSpeed's to read"
    ran = subprocess.run(launch.arguments[4:], env=launch.environment, capture_output=True, text=True, check=True)
    assert "usage" in ran.stdout, "the command of a rank runs as it is"
    assert launch.arguments[4] == sys.executable


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pdhs", "--launcher pdhs: unknown; did you mean 'pdsh'?; choose one of pdsh, openmpi, slurm, mpich, impi"),
        ("nothing_here:RUNNER", "--launcher nothing_here:RUNNER: cannot import 'nothing_here'"),
        ("json:loads", "--launcher json:loads: json has no Launcher 'loads' with a command"),
    ],
)
def test_a_launcher_that_is_none(folder, name, said):
    for more in ((), ("--hostfile", "hosts")):
        found = invoke("train", write_recipe(folder), "--run-dir", "run", "--launcher", name, *more)
        assert found.exit_code == 2
        assert said in found.output


def test_the_docs_table_of_launchers_is_the_registry():
    page = (ROOT / "docs/multi-node.md").read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in page.splitlines() if line.startswith("| `")]
    told = [[cell.strip() for cell in row] for row in rows if len(row) == 5 and "--launcher" not in row[0]]
    for row, launcher in zip(told, LAUNCHERS, strict=True):
        assert row[0].split()[0] == f"`{launcher.name}`"
        assert [row[1], row[2], row[4]] == [launcher.needs, launcher.tested, launcher.reaches]


def test_arms_share_a_runs_own_stages(tmp_path):
    recipe = {**RECIPE, "arms": {"other": {"stages": {}}}}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(recipe))
    with pytest.raises(InputError, match=r"arms\.other\.stages: arms of a run share it"):
        load_recipe(tmp_path / "mini.yaml")
