"""What the report says of texts that students wrote to learn from."""

from __future__ import annotations

import json
import re

import pytest
from fake_run import claim, gathered, run_data_stages, write_train
from whole_page import EVIL, write_own_texts

from tracestill.data_pipeline.base.intervals import wilson
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
