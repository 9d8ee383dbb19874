"""``tracestill yield`` on a run made by the real stages; the same in the page and in ``diff``."""

from __future__ import annotations

import json

import pyarrow.parquet as pq
import pytest
from fake_run import claim, gathered, mini_recipe, report, run_data_stages, summary
from rich.console import Console
from typer.testing import CliRunner

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows
from tracestill.data_pipeline.sampling.files.rejected import SCHEMA
from tracestill.launch import cli
from tracestill.launch.report.diff_runs import selected
from tracestill.launch.report.yields.page import yields
from tracestill.launch.report.yields.tables import tables
from tracestill.launch.run.stages import plan_works


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Two teachers, two temperatures, three samples each."""
    teachers = [{"name": "sure", "options": {"error_rate": 0.0}}, {"name": "<b>hasty", "options": {"error_rate": 0.5}}]
    sample = {"teachers": teachers, "samples": 3, "temperatures": [0.7, 1.0]}
    made = claim(tmp_path_factory.mktemp("yield") / "run", mini_recipe(sample=sample))
    run_data_stages(made)
    return made


def command(*arguments: object) -> tuple[int, str]:
    found = CliRunner().invoke(cli.app, ["yield", *map(str, arguments)], env={"COLUMNS": "200"})
    return found.exit_code, found.output


def test_the_command_tells_what_the_files_hold(run, tmp_path):
    code, text = command(run.root, "--json", tmp_path / "yield.json")
    assert code == 0
    found = json.loads((tmp_path / "yield.json").read_text())
    places = [run.stage("traces", stage) / "records.parquet" for stage in ("sample", "select")]
    asked, kept = (read_rows(place, RECORD_SCHEMA) for place in places)
    questions = pq.read_table(places[0].with_name("questions.parquet")).to_pylist()
    train = {row["question_id"] for row in questions if row["split"] == "train"}
    for row in found["by"]["teacher"]:
        for key, rows in (("asked", asked), ("kept", kept)):
            mine = [r for r in rows if r["teacher"] == row["value"][0] and r["question_id"] in train]
            assert row[key] == len(mine)
        right = [r for r in asked if r["teacher"] == row["value"][0] and r["question_id"] in train]
        assert row["right"] == sum(int(r["answer"]) == int(r["gold"]) for r in right)
    assert found["by"].keys() == {"teacher", "temperature"}, "style has one value"
    total = found["total"]
    assert total["asked"] == 12 * 2 * 2 * 3
    assert found["held_out"] == len(asked) - total["asked"]
    assert f"{total['asked']:,} samples of 12 training questions; {total['right']:,}" in text
    for part in ("samples by teacher", "ceiling", "policies", "difficulty", "<b>hasty"):
        assert part in text


def test_by_says_which_tables(run, tmp_path):
    code, text = command(run.root, "--by", "teacher+temperature,question", "--json", tmp_path / "yield.json")
    assert code == 0
    found = json.loads((tmp_path / "yield.json").read_text())
    assert {name: len(rows) for name, rows in found["by"].items()} == {"teacher+temperature": 4, "question": 12}
    assert "sure, 0.7" in text
    assert "What is (" in text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--by", "teachers"], "--by teachers: no dimension; did you mean 'teacher'"),
        (["--arm", "trace"], "--arm trace: no arm of this run; it has traces, answers_only"),
        (["--json", "/nowhere/at/all.json"], "its folder is not there"),
    ],
)
def test_bad_input_is_one_line(run, arguments, told):
    code, text = command(run.root, *arguments)
    assert code == 2
    assert told in text
    assert len(text.strip().splitlines()) == 1


def test_a_run_that_has_not_selected_says_what_to_do(tmp_path):
    claim(tmp_path / "run")
    code, text = command(tmp_path / "run")
    assert code == 2
    assert "has not finished; run `tracestill select` first" in text


def test_the_page_shows_the_same_tables(run):
    found = gathered(run)
    held = found["arms"]["traces"]["yield"]
    assert found["arms"]["answers_only"]["yield"] == held, "both select alike"
    html = yields(found)
    assert html.count("<h2>") == 1
    for shown in tables(held):
        for row in shown.rows:
            assert all(
                str(cell).replace("<", "&lt;").replace(">", "&gt;") in html for cell in row if "'" not in str(cell)
            )
    assert "<b>" not in html
    assert "dashed" in html
    assert yields({"arms": {"traces": {"yield": None}}}) == ""
    report(run)
    assert "Yield and ceiling" in (run.root / "report" / "report.html").read_text()


def test_diff_compares_the_yield_once_for_arms_that_select_alike(run):
    found = selected(run, "traces")
    assert 0.5 < found["share of samples right"] < 1
    assert found["share of questions solved, pass@12"] == 1
    assert selected(run, "answers_only") == {}


def test_samples_that_give_no_record_say_whose_they_are(tmp_path):
    """Recorded traces, too, whose rejection names only a line of a file."""
    said = ["<think>never closed" if n == 2 else f"{n} + 1 = {n + 1}\n#### {n + 1}" for n in range(8)]
    lines = [{"question": f"{n} + 1?", "gold": str(n + 1), "teacher": "careful", "trace": said[n]} for n in range(8)]
    (tmp_path / "traces.jsonl").write_text("\n".join(map(json.dumps, lines)))
    questions = {"source": str(tmp_path / "traces.jsonl"), "test": 1}
    sample = {"teachers": [{"name": "others", "use": "recorded"}], "max_rejected": 0.5}
    made = claim(tmp_path / "run", mini_recipe(questions=questions, sample=sample))
    for work in plan_works(made)[:2]:
        work.spec.do(work, Console(quiet=True))
    (row,) = pq.read_table(made.root / "sample" / "rejected.parquet", schema=SCHEMA).to_pylist()
    assert (row["teacher"], row["style"], row["temperature"], row["row"]) == ("careful", "", 1.0, 3)
    code, text = command(made.root, "--by", "teacher")
    assert code == 0
    assert "7 samples of 7 training questions" in text


def test_without_gold_answers_right_is_said_to_be_what_traces_agree_on(tmp_path):
    traces = tmp_path / "traces.jsonl"
    rows = [
        {"question": f"What is {n} + {n}?", "output": f"{n} + {n} = {2 * n}. The answer is {2 * n}."} for n in range(30)
    ]
    traces.write_text("\n".join(map(json.dumps, rows)))
    teachers = [{"name": "r1", "use": "recorded"}]
    recipe = mini_recipe(questions={"source": str(traces), "test": 5}, sample={"teachers": teachers})
    run = claim(tmp_path / "run", recipe)
    run_data_stages(run)
    assert "; gold answers from the traces themselves 30" in summary("sample", run.stage("traces", "sample"))
    code, text = command(run.root)
    assert (code, "30 questions of the source have no gold answer" in text) == (0, True)
    assert "by it alone" not in text, "there is nothing beside it"
    assert "operations: median" not in text, "no question is unsolved"
    report(run)
    page = (run.root / "report" / "report.html").read_text(encoding="utf-8")
    assert "30 questions in the source have no gold answer" in page
    assert "Traces were read by sentence (30)." in page
