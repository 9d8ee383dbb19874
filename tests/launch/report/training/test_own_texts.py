"""What the report says of texts that students wrote to learn from."""

from __future__ import annotations

import json
import re

import pytest
from fake_run import claim, finish_train, gathered, run_data_stages, write_train
from whole_page import EVIL, write_own_texts

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.base.schema import write_rows
from tracestill.data_pipeline.rounds.own_figures import READ, TEXTS
from tracestill.launch.report.report import gather_own_texts
from tracestill.launch.report.training.own_texts import own_texts

KINDS = {
    1: {"derive": {"teacher_count": 10, "divergence": 0.5}, "prompt": {"count": 3, "loss": 1.0}},
    2: {"derive": {"teacher_count": 30, "divergence": 0.1}, "answer": {"teacher_count": 4, "divergence": 2.0}},
    3: {"derive": {"teacher_count": 7, "divergence": 0.3}},
}


def refresh(number: int, step: int, **more):
    counts = {"in": 8, "out": 7, "right": 2 + number, "cut_off": 1, "different": 8, "tokens_mean": 9.5, "rejected": {}}
    return {"event": "refresh", "step": step, "refresh": number, **counts, **more}


def test_divergences_are_those_of_the_steps_that_learnt_from_a_refresh():
    steps = [{"step": step, "loss": 1.0, "kinds": kinds} for step, kinds in KINDS.items()]
    log = [refresh(0, 0, unread=1), *steps[:2], refresh(1, 2), steps[2], refresh(2, 3, event="ended", why="too long")]
    found = gather_own_texts(log, {"on_policy": {"time": {"writing": 0.25}}})
    assert [row["x"] for row in found["refreshes"]] == [0, 1, 2], "texts that were too long were written, too"
    assert [row["x"] for row in found["divergence"]] == [0, 1]
    assert found["divergence"][0]["kinds"] == pytest.approx({"derive": (10 * 0.5 + 30 * 0.1) / 40, "answer": 2.0})
    assert found["divergence"][1]["kinds"] == {"derive": 0.3}
    assert (found["ended"], found["spent"], found["time"], found["ratio"]) == ("too long", {"writing": 0.25}, [], [])
    assert [row["unread"] for row in found["refreshes"]] == [1, 0, 0]
    assert gather_own_texts(steps, None) is None


def test_the_page_draws_them_by_refresh_with_their_numbers(tmp_path):
    run = claim(tmp_path / "run")
    run_data_stages(run)
    for arm in ("traces", "answers_only"):
        write_train(run, arm)
    assert own_texts(gathered(run)) == "", "no student wrote any"
    write_own_texts(run.stage("traces", "train"))
    page = own_texts(gathered(run))
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    assert titles == [
        *("own texts that are right", "length of own texts", "own texts that were cut off"),
        *("distinct own texts", "own texts that became documents", "documents that no step reads"),
        *("divergence from the teacher by kind, traces", "age of texts: probability now over that when drawn"),
        *("tokens at the bound of that ratio", "share of the time, traces"),
    ]
    drawn = [json.loads(text) for text in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    right = drawn[0]["columns"]
    assert (right["x"], right["y"]) == ([1, 2, 3, 4], [0.375, 0.5, 0.625, 0.75])
    assert right["low"][1] == pytest.approx(wilson(20, 40)[0], rel=1e-4)
    table = page.rpartition("<table>")[2]
    cells = re.findall(r"<td>(.*?)</td>", table)
    assert cells[1:7] == ["4", "160", "37.5%", "75.0%", "20.0", "80.0"]
    assert "traces ended early: " in page
    assert EVIL not in page


def test_ways_of_the_first_texts_and_of_the_last_stand_side_by_side_once_it_is_trained(tmp_path):
    run = claim(tmp_path / "run")
    run_data_stages(run)
    ways = {0: ("1+2=3. 3+4=7.", "2+1=3. 3+4=7."), 3: ("1+2=3. 3+4=7.",) * 2}
    for number, traces in ways.items():
        about = {"question_id": "q", "question": f"Add 1, 2 and 4. {EVIL}", "gold": "7", "answer": "7"}
        rows = [{**about, "trace": trace, "reason": "", "correct": True, "tokens": 9 + number} for trace in traces]
        place = run.stage("traces", "train") / f"refreshes/{number:06d}" / TEXTS
        place.parent.mkdir(parents=True)
        write_rows(place, rows, READ)
    write_train(run, "traces", finished=False)
    write_own_texts(run.stage("traces", "train"))
    write_train(run, "answers_only")
    assert "How the first texts solve" not in own_texts(gathered(run)), "it still writes"
    finish_train(run, "traces")
    found = gathered(run)
    assert [one["differ"] for one in found["arms"]["traces"]["own_ways"]] == [1.0, 0.0]
    assert found["arms"]["answers_only"]["own_ways"] == []
    page = own_texts(found)
    body = re.findall(r"<tr><td>.*?</tr>", page.rpartition("How the first texts solve")[2])
    cells = [re.findall(r"<td>(.*?)</td>", each) for each in body]
    assert [each[1:5] for each in cells] == [["0", "100%", "2", "2"], ["3", "0%", "2", "2"]]
    assert [each[-2:] for each in cells] == [["9.0", "0 of 2"], ["12.0", "1 of 2"]]
    assert EVIL not in page
