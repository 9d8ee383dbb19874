"""One page of several runs, and the examples of what selection rejected."""

import base64
import gzip
import json
import re
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answered_run import answered_run, write_predictions
from browser import opened, violations
from fake_run import HOSTILE, claim, gathered, mini_recipe, run_data_stages, write_evaluation, write_train
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch import cli
from tracestill.launch.commands.report_command import names_of
from tracestill.launch.report.diff_runs import ABSENT, NOT_ALIKE
from tracestill.launch.report.records import held_out as records
from tracestill.launch.report.records.held_out import Source, held_out
from tracestill.launch.report.several import compared, side_by_side
from tracestill.launch.report.verdicts import EXAMPLES, LONGEST, shortened, verdicts, verdicts_in
from tracestill.trainer.recipe.run_directory import RunDirectory

EVIL = "</script><img src=x onerror=alert(1)>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("several")
    for name, changes in (("one", {}), ("two", {"seed": 5, "name": "mini-two"})):
        run = claim(root / name, mini_recipe(**changes))
        run_data_stages(run)
        for arm in ("traces", "answers_only"):
            write_train(run, arm)
            write_evaluation(run, arm, 0.875 if arm == "traces" else 0.125)
    return root


def command(*words):
    return CliRunner().invoke(cli.app, ["report", *map(str, words)])


def test_several_runs_stand_in_one_page(runs):
    before = {path: path.read_bytes() for path in runs.rglob("*") if path.is_file()}
    found = command(runs / "one", runs / "two")
    assert found.exit_code == 0, found.output
    page = (runs / "compared.html").read_text()
    assert {path for path in runs.rglob("*") if path.is_file()} - before.keys() == {runs / "compared.html"}
    assert all(path.read_bytes() == text for path, text in before.items()), "nothing is written into the runs"
    assert str(runs) not in re.sub(r"<details><summary>The resolved recipe.*?</details>", "", page, flags=re.S)
    heads = re.findall(r"<h2.*?>(.*?)</h2>", page)
    assert heads == ["Right answers", "What differs", "Traces", "one", "two"]
    assert page.count("<h1>") == 1
    assert page.count("<h3>Training</h3>") == 2, "the parts of a run stand below its name"
    assert page.count("/*! vega 6") == 1
    keys = re.search(r"<h3>Keys of the recipe</h3>.*?<tbody>(.*?)</tbody>", page, re.S)[1]
    assert re.findall(r">([^<>]+)<", keys) == ["name", "mini", "mini-two", "seed", "0", "5"]
    bars = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert bars["names"]["name"] == [f"{run}: {arm}" for run in ("one", "two") for arm in ("traces", "answers_only")]
    assert bars["columns"]["share"] == [0.875, 0.125] * 2
    assert "other held-out questions" not in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rows: rows[6:], "4 of its 4"),
        (lambda rows: [row | {"question_id": f"other {row['question_id']}"} for row in rows], None),
        (lambda rows: [row | {"question": f"{row['question']}?"} for row in rows], "0 of its 10"),
        (lambda rows: [row | {"gold": "-1"} for row in rows[:3]] + rows[3:], "7 of its 10"),
    ],
)
def test_other_questions_are_named_by_their_texts_and_not_by_their_ids(runs, change, said):
    path = runs / "two/arms/traces/evaluate/predictions.parquet"
    rows = pq.read_table(path)
    try:
        pq.write_table(pa.Table.from_pylist(change(rows.to_pylist()), rows.schema), path)
        assert command(runs / "one", runs / "two", "--to", runs / "other.html").exit_code == 0
    finally:
        pq.write_table(rows, path)
    told = re.findall(r"(\w+) was asked other held-out questions than (\w+): (.*?) were asked there, too",
                      (runs / "other.html").read_text())  # fmt: skip
    assert told == ([("two", "one", said)] if said else [])


def test_runs_of_one_name_stay_apart(tmp_path):
    for place in ("a/x", "b/x", "a/y", "b/y", "a/y (2)"):
        (tmp_path / place).mkdir(parents=True)
    said = {
        ("a/x", "a/y"): ["x", "y"],
        ("a/x", "b/x", "b/y"): ["a/x", "b/x", "b/y"],
        ("a/y", "a/y", "a/y (2)", "a/y"): ["y", "y (3)", "y (2)", "y (4)"],
        ("a/x", "b/x", "b/../a/x"): ["a/x", "b/x", "a/x (2)"],
        ("a", "a/x/.."): ["a", "a (2)"],
    }
    for places, names in said.items():
        assert names_of([tmp_path / place for place in places]) == names


def test_what_makes_no_sense_is_refused(runs):
    for words, said in (
        (("one", "nowhere"), "nowhere: one page of several runs needs the directory of each; this is none"),
        (("one", "--to", "x.html"), "--to belongs to the page of several runs"),
        (("one", "two", "--set", "seed=2"), "no --set"),
    ):
        found = command(*(runs / word if word in ("one", "two", "nowhere") else word for word in words))
        assert found.exit_code == 2
        assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", found.output).split())


def test_the_page_needs_a_place_outside_of_the_runs(runs):
    before = set(runs.rglob("*"))
    for to, said in (
        (runs / "nowhere/x.html", "its folder is not there"),
        (runs, f"a directory; expected a file in it, such as {runs / 'compared.html'}"),
        (runs / "two/report.html", f"lies in the run {runs / 'two'}"),
    ):
        found = command(runs / "one", runs / "two", "--to", to)
        assert (found.exit_code, set(runs.rglob("*"))) == (2, before)
        assert f"--to {to}: {said}" in found.output


@pytest.mark.parametrize(("here", "place"), [("one", "."), ("one/select", "..")])
def test_the_page_lies_beside_the_first_run_wherever_one_stands(runs, monkeypatch, here, place):
    (runs / "compared.html").unlink(missing_ok=True)
    before = set(runs.rglob("*"))
    monkeypatch.chdir(runs / here)
    assert command(place, runs / "two").exit_code == 0
    assert set(runs.rglob("*")) - before == {runs / "compared.html"}


def test_differences_of_many_runs_stand_in_a_row():
    rows = side_by_side([[("lr", 1, 2)], [("seed", 0, 7), ("lr", 1, 3)]], keep=False)
    assert rows == [("lr", [1, 2, 3]), ("seed", [0, 0, 7])]
    kept = side_by_side([[("loss", 1.0, 2.0)], [(f"loss{NOT_ALIKE}", 1.0, 3.0), ("new", ABSENT, 4)]], keep=True)
    assert kept == [(f"loss{NOT_ALIKE}", [1.0, 2.0, 3.0]), ("new", [ABSENT, ABSENT, 4])]


def test_verdicts_have_the_first_records_of_each_reason(runs):
    select = runs / "one/select"
    rejected = pq.read_table(select / "rejected.parquet").to_pylist()
    found = verdicts_in(select)
    reasons = sorted({row["reason"] for row in rejected})
    assert reasons
    wanted = [row for reason in reasons for row in [r for r in rejected if r["reason"] == reason][:EXAMPLES]]
    assert [(row["question"], row["reason"], row["detail"]) for row in found] == [
        (row["question"], row["reason"], row["detail"]) for row in wanted
    ]
    (runs / "broken").mkdir()
    (runs / "broken/rejected.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"delete .*broken, and select again"):
        verdicts_in(runs / "broken")


def test_a_long_trace_is_cut_and_says_so_and_texts_stay_texts():
    row = {"reason": "wrong_answer", "question": EVIL, "gold": EVIL, "answer": None, "teacher": EVIL, "detail": EVIL}
    held = [shortened({**row, "trace": EVIL + "x" * LONGEST})]
    page = verdicts({"arms": {"a": {"verdicts": held, "selection": {"rejected": {"wrong_answer": 1234}}}}})
    assert f"and {len(EVIL)} characters more" in page
    assert "<b>wrong answer</b>: 1,234 records" in page
    assert "What helps: a better teacher" in page
    assert "<img" not in page
    assert verdicts({"arms": {"a": {"verdicts": []}}}) == ""


def test_no_part_of_a_secret_is_left_where_a_trace_is_cut():
    key = "sk-" + "a1B2" * 12
    row = {"reason": "wrong_answer", "trace": f"{'x ' * (LONGEST // 2 - 4)}{key} and more"}
    assert "a1B2" not in shortened(row)["trace"]


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """Two runs whose students answered; of the second one's 11 questions the last 5 have another text, and one
    before them another id."""
    root = tmp_path_factory.mktemp("answered")
    made = {name: answered_run(root / name, seed=seed) for name, seed in (("one", 0), ("two", 0))}
    for arm in ("before", "after"):
        rows = pq.read_table(made["two"].stage(arm, "evaluate") / "predictions.parquet").to_pylist()
        for row in rows:
            row["text"] = f"second {row['text']}"
        for row in rows[-5:]:
            row["question"] = f"anew: {row['question']}"
        rows[-7]["question_id"] = "called otherwise"
        write_predictions(made["two"], arm, rows)
    assert command(root / "one", root / "two").exit_code == 0
    return root


def test_students_of_all_runs_stand_side_by_side_for_equal_questions(answered, monkeypatch):
    found = held_out([Source(RunDirectory.open(answered / name), of(answered / name), name) for name in ("one", "two")])
    assert found["students"] == ["one: before", "one: after", "two: before", "two: after"]
    assert (found["runs"], found["shared"]) == (2, 6)
    asked = [[one is not None for one in row["answers"]] for row in found["questions"]]
    assert len(asked) == 6 + 5 + 5
    assert asked[:6] == [[True, at > 1, True, at > 1] for at in range(6)], "those of both runs first"
    assert asked[6:] == [[True, True, False, False]] * 5 + [[False, False, True, True]] * 5
    texts = [one["text"] for one in found["questions"][3]["answers"]]
    assert [str(text).count("second") for text in texts] == [0, 0, 1, 1]
    monkeypatch.setattr(records, "QUESTIONS", 7)
    few = held_out([Source(RunDirectory.open(answered / name), of(answered / name), name) for name in ("one", "two")])
    assert (len(few["questions"]), few["left_out"]) == (7, 9)


def test_runs_of_one_name_have_all_their_students_on_the_page(answered):
    shutil.copytree(answered / "two", answered / "more/one")
    try:
        places = answered / "one", answered / "more/one", answered / "one"
        assert command(*places, "--to", answered / "alike.html").exit_code == 0
    finally:
        shutil.rmtree(answered / "more")
    page = (answered / "alike.html").read_text()
    names = [f"{answered.name}/one", "more/one", f"{answered.name}/one (2)"]
    students = [f"{run}: {arm}" for run in names for arm in ("before", "after")]
    assert re.findall(r"<h2.*?>(.*?)</h2>", page) == ["Right answers", "What differs", "Traces", *names]
    bars = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert bars["names"]["name"] == students
    held = json.loads(re.search(r'<script type="application/json" id="records-data">(.*?)</script>', page, re.S)[1])
    records = json.loads(gzip.decompress(base64.b64decode(held["gzip"])))["answers"]
    assert records["students"] == students
    texts = [[one["text"] for one in row["answers"][1::2]] for row in records["questions"][3:6]]
    assert all(one == again != other for one, other, again in texts)
    assert records["questions"][0]["teachers"][0]["who"].startswith(f"{', '.join(names)}: ")


def of(root):
    return gathered(RunDirectory.open(root))


def test_the_table_of_several_runs_is_searched_and_read_aloud(answered):
    with opened(answered / "compared.html", allow_all=True) as tab:
        tab.page.wait_for_selector("#records-app:not([hidden])")
        heads = tab.page.locator("#records-table th[data-key] button").all_inner_texts()
        assert heads[4:8] == ["one: before", "one: after", "two: before", "two: after"]
        assert tab.page.inner_text("#records-count") == "16 of 16 questions"
        tab.page.fill("#records-q", "anew:")
        assert tab.page.inner_text("#records-count") == "5 of 16 questions"
        tab.page.fill("#records-q", "second")
        tab.page.select_option("#records-arm", label="two: after")
        tab.page.select_option("#records-says", "right")
        assert tab.page.locator("#records-table [data-row]").count() > 0
        tab.page.click("#records-clear")
        tab.page.click("[data-row='4']")
        detail = tab.page.locator("#records-detail-4")
        assert detail.locator("h3").all_inner_texts() == [
            *("teacher: one, two: solver", "one: before", "one: after", "two: before", "two: after")
        ]
        assert HOSTILE in detail.inner_text(), "as it was written"
        assert tab.page.locator("#records-tokens").count() == 0, "documents stand in each run's own page"
        assert violations(tab) == []
        assert (tab.errors, tab.requests) == ([], [])


def test_heads_stand_above_numbers_at_the_right_and_above_texts_at_the_left():
    texts, numbers = compared(["a", "b"], [("lr", ["x", ABSENT])]), compared(["a", "b"], [("loss", [1.5, ABSENT])])
    assert (texts.count("text left"), numbers.count("text left")) == (2, 0)
    assert f'class="text">{ABSENT}' not in numbers, "among numbers it stands as they do"
