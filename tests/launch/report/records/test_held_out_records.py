"""Held-out questions in the table of traces: as many as were asked, with the verdicts of the evaluation."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow.parquet as pq
import pytest
from answered_run import FALSE, answered_run, write_predictions
from fake_run import HOSTILE, gathered, report
from scored_run import made_up, write_scores

from tracestill.launch.report.records import held_out as module
from tracestill.launch.report.records import section
from tracestill.launch.report.records.held_out import Source, held_out


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return answered_run(tmp_path_factory.mktemp("held_out") / "run")


def predictions(run, arm):
    return pq.read_table(run.stage(arm, "evaluate") / "predictions.parquet").to_pylist()


def test_there_are_as_many_answers_as_predictions_with_the_verdicts_of_the_evaluation(run):
    found = held_out([Source(run, gathered(run))])
    assert found["students"] == ["before", "after"]
    assert [len(row["answers"]) for row in found["questions"]] == [2] * 11
    assert found["left_out"] == found["cut"] == 0
    assert found["checked"] == 11
    for at, arm in enumerate(found["students"]):
        rows, result = predictions(run, arm), json.loads((run.stage(arm, "evaluate") / "result.json").read_text())
        shown = {row["question"]: row["answers"][at] for row in found["questions"] if row["answers"][at]}
        assert len(shown) == len(rows) == result["questions"]
        said = Counter(one["says"] for one in shown.values())
        assert said["right"] == result["right"] > 0
        assert said["right"] + said["wrong"] + said["undecided"] == result["answered"]
        assert said["undecided"] == sum(result["undecided"].values()) > 0
        faults = Counter(fault for one in shown.values() for fault in one["faults"])
        assert faults["cut off"] == result["truncated"] > 0
        assert faults["not asked (holds a control symbol)"] == result["not_asked"] > 0
        for row in rows:
            one = shown[row["question"]]
            assert (one["answer"], one["tokens"]) == (row["answer"], row["tokens"])
    assert [row["answers"][1] for row in found["questions"][:2]] == [None, None]
    assert [row["question"] for row in found["questions"]] == [row["question"] for row in predictions(run, "before")]


def test_what_is_false_is_marked_where_it_stands_in_the_whole_text(run):
    found = held_out([Source(run, gathered(run))])
    for row, prediction in zip(found["questions"], predictions(run, "before"), strict=True):
        one = row["answers"][0]
        pieces = [one["text"]] if isinstance(one["text"], str) else one["text"]
        assert "".join(p if isinstance(p, str) else p["false"] for p in pieces) == prediction["text"]
        false = [p["false"] for p in pieces if not isinstance(p, str)]
        assert false == ([FALSE] if FALSE in prediction["text"] else [])
        assert ("a false step" in one["faults"]) == bool(false)


def test_teachers_traces_stand_beside_them(run):
    records = pq.read_table(run.root / "sample/records.parquet").to_pylist()
    found = held_out([Source(run, gathered(run))])
    for row, prediction in zip(found["questions"], predictions(run, "before"), strict=True):
        (own,) = (record for record in records if record["question_id"] == prediction["question_id"])
        (teacher,) = row["teachers"]
        pieces = teacher["text"]
        text = pieces if isinstance(pieces, str) else "".join(p if isinstance(p, str) else p["false"] for p in pieces)
        assert (text, teacher["answer"]) == (own["trace"], own["answer"])
        assert teacher["who"] == f"{own['teacher']}{', ' * bool(own['style'])}{own['style']}"
        assert row["more"] == 0


def test_what_is_not_shown_or_not_looked_at_is_counted(run, monkeypatch):
    monkeypatch.setattr(module, "QUESTIONS", 7)
    monkeypatch.setattr(module, "CHECKED", 500)
    monkeypatch.setattr(module, "TEACHERS", 0)
    found = held_out([Source(run, gathered(run))])
    assert [(row["teachers"], row["more"]) for row in found["questions"]] == [([], 1)] * 7
    assert (len(found["questions"]), found["left_out"]) == (7, 4)
    assert 0 < found["checked"] < 7
    false = [any("a false step" in one["faults"] for one in row["answers"] if one) for row in found["questions"]]
    assert any(false[: found["checked"]])
    assert not any(false[found["checked"] :])


def test_what_is_out_of_date_is_not_shown(run):
    held = gathered(run)
    held["arms"]["after"]["evaluation"] = None
    assert held_out([Source(run, held)])["students"] == ["before"]


def test_the_report_holds_the_section_and_makes_it_once(run, monkeypatch):
    made = []
    monkeypatch.setattr(section, "held_out", lambda *given: made.append(1) or held_out(*given))
    section.made.clear()
    for _ in range(2):
        report(run)
    html = (run.root / "report/report.html").read_text()
    assert html.count('class="records-lines"') == 1
    assert HOSTILE not in html
    assert len(made) == 1
    write_predictions(run, "after", predictions(run, "after")[1:])
    report(run)
    assert len(made) == 2, "another evaluation, another section"


def test_it_is_made_anew_when_a_stage_is_that_it_shows(tmp_path):
    run = answered_run(tmp_path / "run", score={"base": {"model": "student", "channels": ["nll"]}})
    write_scores(run, "before", made_up)
    held = gathered(run)
    seen = {section.made_of(run, held)}
    places = [run.stage("before", stage) for stage in ("sample", "select", "tokenizer", "encode", "evaluate")]
    for count, place in enumerate([*places, run.scores("before")["base"]], 2):
        manifest = json.loads((place / "manifest.json").read_text())
        (place / "manifest.json").write_text(json.dumps({**manifest, "seconds": 1e9}))
        seen.add(section.made_of(run, held))
        assert len(seen) == count, place
