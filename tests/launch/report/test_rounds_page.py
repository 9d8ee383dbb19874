"""The report's part on rounds: each figure of rounds.json drawn over the rounds, ways that are gone, own texts."""

from __future__ import annotations

import json
import re

import pytest
from whole_page import EVIL

from tracestill.launch.report.rounds_page import rounds

VALUES = {  # figure of a round's traces -> of rounds 0 to 2
    "differ": (0.8, 0.9, 0.9), "differ_same": (0.8, 0.6, 0.4), "differ_first": (0.8, 0.7, 0.75),
    "paths": (2.5, 2.25, 1.5), "strategies": (17, 12, 9), "entropy": (2.5, 2.0, 1.5), "self_bleu": (0.3, 0.4, 0.5),
    "coverage": (1.0, 0.5, 0.25), "coverage_by_chance": (0.95, 0.9, 0.85),
    "tried": (1.0, 0.7, 0.6), "tried_by_chance": (0.96, 0.92, 0.88), "words": (20.0, 21.0, 22.0),
}  # fmt: skip


def span(share):
    return {"share": share, "low": share - 0.1, "high": share + 0.1, "questions": 100}


def row(at):
    student = {"accuracy": 0.9 - 0.1 * at, "accuracy_low": 0.5, "accuracy_high": 0.95}
    beyond = {"variations": span(0.5 - 0.1 * at), "ece": span(0.2 + 0.1 * at), "apart": span(0.6 - 0.2 * at)}
    tasks = {"nearer": span(0.7 - 0.1 * at), EVIL: span(0.4 + 0.1 * at)}
    traces = {key: each[at] for key, each in VALUES.items()}
    return {"round": at, "teachers": ["t"], "trained": True, "traces": traces, **student, **beyond, "tasks": tasks}


def result(rows):
    return {"rounds": {"rounds": rows, "best": 0, "stopped": None}}


def drawn(page):
    """Title of each plot -> its columns, in order."""
    titles = re.findall(r"<figcaption>(.*?)</figcaption>", page)
    held = [json.loads(each) for each in re.findall(r'<script type="application/json">(.*?)</script>', page)]
    return dict(zip(titles, held, strict=True))


def test_every_figure_is_drawn_and_what_it_is_measured_against_dashed():
    page = rounds(result([row(at) for at in range(3)]))
    plots = drawn(page)
    first, chance = "dashed: round 0&#x27;s traces of the same questions", "dashed: by chance"
    assert list(plots) == [
        *("accuracy", "other forms of the questions answered right", "ECE of votes"),
        *("two right samples of a test question differ", f"two traces of a question differ ({first})"),
        *("paths a question", "entropy of strategies", "self-BLEU of a question&#x27;s traces"),
        f"rare strategies of round 0 that are seen ({chance})",
        f"rare strategies of round 0 that are tried ({chance})",
        *("length of a trace", "other tasks answered right"),
    ]
    wanted = {
        "accuracy": [0.9, 0.8, 0.7],
        "other forms of the questions answered right": [0.5, 0.4, 0.3],
        "ECE of votes": [0.2, 0.3, 0.4],
        "two right samples of a test question differ": [0.6, 0.4, 0.2],
        f"two traces of a question differ ({first})": [*VALUES["differ_same"], *VALUES["differ_first"]],
        "paths a question": VALUES["paths"],
        "entropy of strategies": VALUES["entropy"],
        "self-BLEU of a question&#x27;s traces": VALUES["self_bleu"],
        f"rare strategies of round 0 that are seen ({chance})": [*VALUES["coverage"], *VALUES["coverage_by_chance"]],
        f"rare strategies of round 0 that are tried ({chance})": [*VALUES["tried"], *VALUES["tried_by_chance"]],
        "length of a trace": VALUES["words"],
        "other tasks answered right": [0.7, 0.6, 0.5, 0.4, 0.5, 0.6],
    }
    for title, values in wanted.items():
        columns = plots[title]["columns"]
        assert columns["y"] == pytest.approx(values), title
        assert columns["x"] == [0, 1, 2] * (len(values) // 3)
        assert columns.get("d") == ([0, 0, 0, 1, 1, 1] if "dashed" in title else None)
    assert plots["ECE of votes"]["columns"]["low"] == pytest.approx([0.1, 0.2, 0.3])
    tasks = plots["other tasks answered right"]
    assert tasks["columns"]["s"] == [0, 0, 0, 1, 1, 1], "a line each"
    assert "nearer</span>" in page
    assert EVIL not in page


def test_rounds_without_most_figures_draw_what_there_is():
    """As of an earlier version, or of traces without equations."""
    plain = {"round": 0, "teachers": ["t"], "trained": True, "accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6}
    traces = {"differ": 0.5, "differ_same": None, "differ_first": None, "coverage": None, "words": 3.0}
    plots = drawn(rounds(result([{**plain, "traces": traces}])))
    assert list(plots) == ["accuracy", "two traces of a question differ", "length of a trace"]
    assert plots["two traces of a question differ"]["columns"]["y"] == [0.5]


def test_ways_that_are_gone_are_folded_with_a_trace_of_each():
    one = {"strategy": "q1+q0=r0", "times": 40, "share": 0.4, "missed_by_chance": 0.004, "tried": 3}
    most = [
        {**one, "question": EVIL, "trace": EVIL},
        {**one, "strategy": "q2", "tried": 0, "question": "", "trace": ""},
    ]
    rows = [row(0), {**row(1), "traces": {**row(1)["traces"], "gone": {"count": 21, "of": 50, "most": most}}}, row(2)]
    rows[2]["traces"] |= {"gone": {"count": 0, "of": 50, "most": []}}
    page = rounds(result(rows))
    (folded,) = re.findall(r"<details><summary>(Round.*?)</details>", page, re.S)
    told = "Round 1: 21 of round 0's 50 strategies are not seen any more, the 2 most frequent</summary>"
    assert folded.startswith(told)
    cells = re.findall(r"<td>(.*?)</td>", folded, re.S)
    assert cells[1:4] == ["40 (40.0%)", "0.4%", "3"]
    assert cells[8] == "no"
    assert "onerror=&quot;document" in cells[4], "escaped"
    assert EVIL not in page
    assert "<td>21 of 50</td>" in page
    assert "<td>0 of 50</td>" in page


def test_a_student_of_own_texts_has_a_row_for_the_first_and_one_for_the_last():
    first, last = ({**row(at)["traces"], "tokens": 30.0 + at, "traces": 256} for at in (1, 2))
    own = {"time": {"writing": 0.35, "teacher": 0.2, "training": 0.45}}
    page = rounds(result([row(0), {**row(1), "first_texts": first, "traces": last, "own_texts": own}]))
    heads = re.findall(r'<th scope="col">(.*?)</th>', page.partition("</table>")[0])
    body = re.findall(r"<tr>(<td>.*?)</tr>", page.partition("</table>")[0])
    cells = [dict(zip(heads, re.findall(r"<td>(.*?)</td>", each), strict=True)) for each in body]
    assert [each["round"] for each in cells] == ["0", "1, first texts", "1, last texts"]
    assert [each["differ (round 0)"] for each in cells] == ["80%", "60% (70%)", "40% (75%)"]
    assert [each["tokens a text"] for each in cells] == ["", "31.0", "32.0"]
    assert [each["time writing"] for each in cells] == ["", "", "35%"]
    assert [each["accuracy (95 %)"] for each in cells] == ["90.0% (50%-95%)", "", "80.0% (50%-95%)"]
    plots = drawn(page)
    assert plots["entropy of strategies"]["columns"]["y"] == [2.5, 1.5], "of the last texts"
