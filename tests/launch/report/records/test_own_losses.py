"""Texts of students in the colours of their own losses: which stretch has which, on the page and in its data."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from answered_run import answered_run, write_predictions
from browser import opened
from fake_run import gathered, report
from traces_page import held_in, ready

from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.report.records import own_losses
from tracestill.launch.report.records.held_out import Source, held_out
from tracestill.launch.report.records.own_losses import OwnLosses
from tracestill.launch.report.records.shown import Texts, plain

SPANS = """place => [...place.querySelectorAll("[data-at]")].map(span => [
    Number(span.dataset.at), span.textContent, parseInt((span.style.background.match(/(\\d+)%/) || [0, 0])[1])
])"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    made = answered_run(tmp_path_factory.mktemp("own_losses") / "run")
    rows = predictions(made)
    for row in rows:
        if row["ends"]:  # browsers count the one as two, and see what a terminal would obey written out
            row["text"] = f"😀\x1b{row['text']}"
            row["ends"], row["logprobs"] = [1, 2, *(end + 2 for end in row["ends"])], [-0.5, -0.25, *row["logprobs"]]
    write_predictions(made, "before", rows)
    return made


def predictions(run):
    return pq.read_table(run.stage("before", "evaluate") / "predictions.parquet").to_pylist()


def test_losses_are_of_the_stretches_that_are_shown(run):
    found, every = held_out([Source(run, gathered(run))]), []
    for row, prediction in zip(found["questions"], predictions(run), strict=True):
        one = row["answers"][0]
        if not prediction["ends"]:
            assert one["loss"] is None
            continue
        lengths, losses = one["loss"]
        shown = plain(one["text"]).encode("utf-16-le")
        ends = np.cumsum(lengths)
        stretches = [
            shown[2 * (end - size) : 2 * end].decode("utf-16-le") for size, end in zip(lengths, ends, strict=True)
        ]
        starts = [0, *prediction["ends"][:-1]]
        cut = zip(starts, prediction["ends"], prediction["logprobs"], strict=True)
        tokens = [(prediction["text"][start:end], -logprob) for start, end, logprob in cut]
        tokens[5:7] = [(tokens[5][0], tokens[5][1] + tokens[6][1])]  # which only together are a character
        assert stretches == [visible(text) for text, _ in tokens]
        assert losses == pytest.approx([100 * loss for _, loss in tokens], abs=0.51)
        every += [loss for _, loss in tokens]
    other = [one["loss"][1] for row in found["questions"] if (one := row["answers"][1]) and one["loss"]]
    assert found["full"] == pytest.approx(
        np.percentile([*every, *(x / 100 for row in other for x in row)], 99), abs=5e-3
    )
    assert found["uncoloured"] == 0


def test_losses_that_are_not_shown_are_counted(run, monkeypatch):
    rows = [row for row in predictions(run) if row["ends"]]
    count = [len(row["ends"]) for row in rows]
    texts = Texts([row["text"] for row in rows])
    monkeypatch.setattr(own_losses, "COLOURED", count[0] + count[1])
    losses = OwnLosses()
    assert [losses.of(row, texts) is None for row in rows[:3]] == [False, False, True]
    assert losses.without == 1
    assert losses.of({**rows[0], "ends": None}, texts) is None
    secret = {**rows[0], "text": f"sk-{'a1B2' * 12}", "ends": [9], "logprobs": [-1.0]}
    assert OwnLosses().of(secret, Texts([secret["text"]])) is None
    assert losses.without == 1, "nothing is known of those"
    long = Texts([rows[0]["text"]], most=0)
    long.limit = 5
    assert OwnLosses().of(rows[0], long) is None
    assert OwnLosses().full is None


def test_a_students_text_has_the_colours_of_its_losses(run):
    report(run)
    page = run.root / "report" / "report.html"
    with opened(page) as tab:
        ready(tab).click("[data-row='4']")
        detail = tab.page.locator("#records-detail-4")
        place, told = detail.locator("pre").nth(1), detail.locator(".token").first
        full = held_in(page, "lines")["answers"]["full"]
        own = predictions(run)[3]
        text, ends = own["text"], own["ends"]
        assert detail.locator("pre").first.locator("[data-at]").count() == 0, "nobody knows the teacher's"
        assert told.inner_text() == f"colour: the loss of a token, full at {full:.4g} nats"
        spans = place.evaluate(SPANS)
        assert "".join(said for _, said, _ in spans) == visible(text), "nothing is lost"
        assert [at for at, _, _ in spans] == sorted(at for at, _, _ in spans)
        losses = [-logprob for logprob in own["logprobs"]]
        losses[5:7] = [losses[5] + losses[6]]
        assert {at for at, _, _ in spans} == set(range(len(losses)))
        for at, _, share in spans:
            assert abs(share - 42 * min(1, losses[at] / full)) <= 0.7
        place.locator("[data-at='7']").first.hover()
        token = json.dumps(visible(text[ends[7] : ends[8]]), ensure_ascii=False)
        assert told.inner_text() == f"token {token} · loss {round(100 * losses[7]) / 100:.4g} nats"
        tab.page.mouse.move(0, 0)
        place.locator("[data-at='0']").focus()
        tab.page.keyboard.press("End")
        assert tab.page.evaluate("document.activeElement.dataset.at") == str(len(losses) - 1)
        tab.page.keyboard.press("ArrowLeft")
        assert tab.page.evaluate("document.activeElement.dataset.at") == str(len(losses) - 2)
        assert place.locator("[tabindex='0']").count() == 1
        assert (tab.errors, tab.requests) == ([], [])
