"""The stage evaluate from the command line: on two ranks, gone on with, with a part more, and of a served model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fake_run import STUDENT, mini_recipe, run_data_stages
from forked_command import command
from odd_server import OddServer, served
from rich.console import Console

from tracestill.launch.run import evaluating
from tracestill.launch.run.stages import plan_works
from tracestill.launch.start.deepspeed_command import Ranks, TrainingFailed
from tracestill.trainer.evaluation.answers import asked_beside
from tracestill.trainer.recipe.run_directory import RunDirectory

QUESTIONS = {"source": "digit_sum", "train": 30, "test": 9, "options": {"digits": 3, "modulus": 10}}
HOW = {"max_new_tokens": 20, "temperature": 0.8, "batch_size": 4}
ANSWERS = "arms/traces/.evaluate.answers"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A run of which all is made that the evaluation of an untrained student reads."""
    root = tmp_path_factory.mktemp("evaluated") / "run"
    student = {"config": {**STUDENT, "initializer_range": 0.3}}
    more = {"questions": QUESTIONS, "student": student, "evaluate": HOW, "train": {"steps": 0}, "arms": {}}
    run_data_stages(RunDirectory.create(root, mini_recipe(**more)))
    return root


def found(root: Path) -> tuple[dict, list[dict]]:
    where = root / "arms/traces/evaluate"
    result = json.loads((where / "result.json").read_text())
    return {k: v for k, v in result.items() if k not in ("seconds", "threads")}, pq.read_table(
        where / "predictions.parquet"
    ).to_pylist()


def nearly(told: tuple[dict, list[dict]]) -> tuple[dict, list[dict]]:
    """The same, but for the last figures of log-probabilities: they depend on who shares a batch."""
    return told[0], [{**row, "logprobs": pytest.approx(row["logprobs"], abs=1e-4)} for row in told[1]]


def lines(root: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in (root / ANSWERS).glob("*.jsonl"))


def test_two_ranks_find_what_one_finds_and_go_on_where_others_were_killed(data: Path, tmp_path: Path) -> None:
    one, two = (shutil.copytree(data, tmp_path / name) for name in ("one", "two"))
    command("evaluate", one)
    said = command("evaluate", two, "--set", "evaluate.ranks=2", "--replace").output
    assert "2 rank(s) on CPU" in said
    assert found(two) == nearly(found(one))
    assert lines(one) == lines(two) == 9
    assert len(list((two / ANSWERS).glob("*.jsonl"))) == 2
    assert not list((two / "arms/traces").glob(".*.asked"))
    assert "up to date" in command("evaluate", two, "--set", "evaluate.ranks=1", "--replace").output

    shutil.rmtree(two / "arms/traces/evaluate")  # as if it had been killed, and one rank with it
    next((two / ANSWERS).glob("*.jsonl")).unlink()
    left = lines(two)
    command("evaluate", two, "--set", "evaluate.ranks=2", "--replace")
    assert 0 < left < lines(two) == 9, "only what is missing is asked for"
    assert found(two) == nearly(found(one))

    stale = two / "arms/traces/.evaluate.asked"  # of ranks that were killed with whoever started them
    stale.mkdir()
    said = command(
        "evaluate", two, "--set", "evaluate.ranks=1", "--set", "evaluate.budgets=[4, 20]", "--replace"
    ).output
    assert not stale.exists()
    assert "done anew: evaluate.budgets" in said
    result, rows = found(two)
    assert rows == nearly(found(one))[1]
    curve = result["budgets"]["curve"]
    assert [point["budget"] for point in curve] == [4, 20, None]
    ended = round(sum(point["ended"]["share"] for point in curve) * 9)
    assert 0 < ended <= lines(two) - 9, "a line for each thought that was ended, and none for what was known"
    assert "right by tokens of the thought: 4 " in said


def test_ranks_that_are_killed_leave_no_word_to_each_other(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.open(data)
    (work,) = [work for work in plan_works(run) if work.stage == "evaluate"]
    stale = asked_beside(work.directory)

    def killed(*how: object, **more: object) -> None:
        stale.mkdir()
        (stale / "ask-00000.json").write_text("[]")
        raise TrainingFailed("rank 1 was killed")

    monkeypatch.setattr(evaluating.deepspeed_command, "run", killed)
    with pytest.raises(TrainingFailed, match="what was written is kept"):
        evaluating.on_ranks(work, Console(quiet=True), Ranks(2, 1), [])
    assert not stale.exists()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("evaluate.also={more: {source: data/none.json}}", "evaluate.also.more.source: data/none.json: not readable"),
        ("evaluate.general={source: data/none.jsonl}", "evaluate.general.source: data/none.jsonl: not readable"),
    ],
)
def test_files_that_are_not_there_are_named_before_any_work(data: Path, setting: str, said: str) -> None:
    """A run trains for hours before its evaluation reads them."""
    assert said in " ".join(command("evaluate", data, "--set", setting, "--replace", code=2).output.split())


def test_a_served_model_is_evaluated_beside_the_arms(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data, tmp_path / "run")

    def say(body: dict, index: int) -> str:
        return "<think>\nlet me see\n</think>\n\n7"

    with served(OddServer(say=say)) as server:
        said = command("evaluate", root, "--endpoint", server.url, "--model-name", "org/big").output
        assert len(server.requests) == 9
        assert "evaluate org-big" in said
        again = command("evaluate", root, "--endpoint", server.url, "--model-name", "org/big").output
        assert "up to date" in again
        assert len(server.requests) == 9
        other = command("evaluate", root, "--endpoint", server.url, "--model-name", "org-big", code=2).output
        assert "'org-big' is org/big in this run" in other
    rows = pq.read_table(root / "models/org-big/predictions.parquet").to_pylist()
    assert {row["answer"] for row in rows} == {"7"}
    assert {row["trace"] for row in rows} == {"let me see"}
    command("report", root)
    page = (root / "report/report.html").read_text()
    assert "org/big, served" in page
    report = json.loads((root / "report/report.json").read_text())
    assert report["models"]["org-big"]["evaluation"]["questions"] == 9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--endpoint", "http://localhost:1/v1"], "add --model-name NAME"),
        (
            ["--endpoint", "big"],
            "no address, such as http://localhost:8000/v1, and the recipe has no evaluate.endpoints",
        ),
        (["--endpoint", "ftp://x/y", "--model-name", "m"], "expected an address that begins with http"),
        (["--endpoint", "http://x", "--model-name", "traces"], "'traces' is an arm of the run"),
        (["--model-name", "m"], "belong to --endpoint"),
        (["--endpoint", "http://x", "--model", "y"], "two models"),
    ],
)
def test_what_is_no_endpoint_is_refused(data: Path, words: list[str], said: str) -> None:
    assert said in " ".join(command("evaluate", data, *words, code=2).output.replace("│", " ").split())


def test_a_server_that_is_not_there_is_named_and_nothing_is_written(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data, tmp_path / "run")
    more = ["--set", "evaluate.endpoints={big: {url: 'http://127.0.0.1:9/v1', model: m, attempts: 1}}", "--replace"]
    said = command("evaluate", root, "--endpoint", "big", *more, code=2).output
    assert "endpoint 'big' failed" in said
    assert "0 of 9 answers came" in said
    assert not (root / "models/big").exists()
