"""One page of several runs, and the examples of what selection rejected."""

import base64
import gzip
import json
import math
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
from tracestill.launch.report.several.page import compared, side_by_side
from tracestill.launch.report.several.pairs import pairs
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
    assert heads == ["Right answers", "Losses", "What differs", "Traces", "one", "two"]
    assert page.count("<h1>") == 1
    assert page.count("<h3>Training</h3>") == 2, "the parts of a run stand below its name"
    assert page.count("/*! vega 6") == 1
    keys = re.search(r"<h3>Keys of the recipe</h3>.*?<tbody>(.*?)</tbody>", page, re.S)[1]
    assert re.findall(r">([^<>]+)<", keys) == ["name", "mini", "mini-two", "seed", "0", "5"]
    bars = json.loads(re.search(r'<script type="application/json">(.*?)</script>', page, re.S)[1])
    assert bars["names"]["name"] == [f"{run}: {arm}" for run in ("one", "two") for arm in ("traces", "answers_only")]
    assert bars["columns"]["share"] == [0.875, 0.125] * 2
    assert "other held-out questions" not in page


def figures_of(page):
    """Captions of the figures of the part on losses -> their data."""
    part = re.search(r"<h2[^>]*>Losses</h2>(.*?)<h2", page, re.S)[1]
    drawn = re.findall(r"<figcaption>(.*?)</figcaption>.*?json\">(.*?)</script>", part, re.S)
    return part, {caption: json.loads(data) for caption, data in drawn}


def test_losses_of_all_runs_stand_in_one_plot(tmp_path, runs):
    quick = claim(tmp_path / "two", mini_recipe(train={"steps": 40, "ranks": 1, "lr": 0.01}))
    run_data_stages(quick)
    for arm in ("traces", "answers_only"):
        write_train(quick, arm)
        write_evaluation(quick, arm, 0.5)
    assert command(runs / "one", quick.root, "--to", tmp_path / "both.html").exit_code == 0
    part, drawn = figures_of((tmp_path / "both.html").read_text())
    every = [f"{run}: {arm}" for run in ("one", "two") for arm in ("traces", "answers_only")]
    of_kind = drawn["loss of answer"]
    assert of_kind["names"]["s"] == every
    assert {(s, d) for s, d in zip(of_kind["columns"]["s"], of_kind["columns"]["d"], strict=True)} == {
        (at, dash) for at in range(4) for dash in (0, 1)
    }
    first = [
        y for s, x, y, d in zip(*(of_kind["columns"][key] for key in "sxyd"), strict=True) if (s, x, d) == (2, 40, 0)
    ]
    assert first == [pytest.approx(1.4 * (0.15 + 3 * math.exp(-40 / 12)), rel=1e-4)], "of the second run"
    weighted = [caption for caption in drawn if caption.startswith("loss, weighted")]
    assert weighted == [
        "loss, weighted: one: traces, two: traces", "loss, weighted: one: answers_only, two: answers_only"
    ]  # fmt: skip
    assert "Not all weighted losses share a plot, because they do not compare: of these students differ layout" in part
    assert "losses by kind share" not in part
    assert part.count("<td>1.4000") == 4, "the evaluation's own, side by side"


def test_losses_that_do_not_compare_stand_apart_and_why_is_said(tmp_path, runs):
    questions = {"source": "digit_sum", "train": 12, "test": 5, "options": {"digits": 4, "modulus": 10}}
    other = claim(tmp_path / "three", mini_recipe(questions=questions, weighting={"weights": {"prompt": 0, "plan": 2}}))
    run_data_stages(other)
    write_train(other, "traces")
    assert command(runs / "one", other.root, "--to", tmp_path / "apart.html").exit_code == 0
    part, drawn = figures_of((tmp_path / "apart.html").read_text())
    assert {"loss of answer: one: traces, one: answers_only", "loss of answer: three: traces"} < set(drawn)
    assert "of these students differ weighting, layout of documents and tokenizer." in part
    assert (
        "losses by kind share a plot, because they do not compare: of these students differ tokenizer and held-out"
        in part
    )


def test_answers_to_the_same_questions_are_paired():
    right = {str(at): at < 6 for at in range(10)}
    better = {str(at): at < 9 for at in range(2, 12)}
    html = pairs(["one", "two", "three"], [{"a": right, "b": right}, {"a": better}, {"a": {}, "c": right}])
    rows = [[re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row)]
            for row in re.findall(r"<tr>(.*?)</tr>", html)[1:]]  # fmt: skip
    assert [row[:4] for row in rows] == [["one: a", "two: a", "8", "+37.5%"], ["one: a", "three: a", "0", ""]]
    assert rows[0][5:] == ["0.25", "0.25"], "3 of 3 that differ, by a coin: 2 / 2^3"
    many = {str(at): at >= 20 for at in range(100)}, dict.fromkeys(map(str, range(100)), True)
    html = pairs(["one", "two"], [{"x": many[0]}, {"y": many[1]}])
    assert '<td class="best">+20.0%</td><td>+12.' in html, (
        "the only students of their runs are paired, and it is no chance"
    )
    assert "&lt;1e-4" in html
    assert pairs(["one", "two"], [{"a": right}, {}]) == ""


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
    assert unpacked(page, "lines")[0]["answers"]["students"] == students
    rows = [row for block in unpacked(page, "texts") for row in block]
    texts = [[one["text"] for one in row["answers"][1::2]] for row in rows[3:6]]
    assert all(one == again != other for one, other, again in texts)
    assert rows[0]["teachers"][0]["who"].startswith(f"{', '.join(names)}: ")


def unpacked(page, name):
    """What a page of records holds under a name."""
    found = re.findall(rf'<script type="application/json" class="(?:late )?records-{name}">(.*?)</script>', page, re.S)
    return [json.loads(gzip.decompress(base64.b64decode(json.loads(one)["gzip"]))) for one in found]


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
