"""Texts of students in the colours of their own losses: which stretch has which, on the page and in its data."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answered_run import answered_run, write_predictions
from browser import opened, violations
from fake_run import gathered, report
from traces_page import held_in, ready

from tracestill.data_pipeline.base.schema import write_rows
from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.report.document import document
from tracestill.launch.report.records import own_losses, section
from tracestill.launch.report.records.held_out import Source, held_out
from tracestill.launch.report.records.own_losses import OwnLosses
from tracestill.launch.report.records.shown import Texts, plain
from tracestill.trainer.evaluation.predictions import BY_TOKEN, PREDICTION_SCHEMA

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


def stretches_of(prediction):
    """Texts and losses that its tokens have on the page."""
    starts = [0, *prediction["ends"][:-1]]
    cut = zip(starts, prediction["ends"], prediction["logprobs"], strict=True)
    tokens = [(prediction["text"][start:end], -logprob) for start, end, logprob in cut]
    tokens[5:7] = [(tokens[5][0], tokens[5][1] + tokens[6][1])]  # which only together are a character
    return tokens


def test_losses_are_of_the_stretches_that_are_shown(run):
    found, every = held_out([Source(run, gathered(run))]), []
    for row, prediction in zip(found["questions"], predictions(run), strict=True):
        one = row["answers"][0]
        if not prediction["ends"]:
            assert one["loss"] is None
            continue
        lengths, losses, counts = one["loss"]
        shown = plain(one["text"]).encode("utf-16-le")
        ends = np.cumsum(lengths)
        cut = [shown[2 * (end - size) : 2 * end].decode("utf-16-le") for size, end in zip(lengths, ends, strict=True)]
        tokens = stretches_of(prediction)
        assert cut == [visible(text) for text, _ in tokens]
        assert losses == pytest.approx([100 * loss for _, loss in tokens], abs=0.51)
        assert counts == [1 + (at == 5) for at in range(len(tokens))]
        every += [loss for _, loss in tokens]
    other = [one["loss"][1] for row in found["questions"] if (one := row["answers"][1]) and one["loss"]]
    every += [loss / 100 for row in other for loss in row]
    assert found["full"] == pytest.approx(np.percentile(every, 99), abs=5e-3)
    assert found["uncoloured"] == 0


@pytest.fixture
def losses_of(tmp_path):
    """The losses of made-up predictions, in their order, and the number of those that are not shown."""

    def made(rows, limit=99, share=own_losses.MOST_TOKENS):
        table = [{key: row.get(key) for key in PREDICTION_SCHEMA.names} for row in rows]
        write_rows(tmp_path / "predictions.parquet", table, PREDICTION_SCHEMA)
        texts = Texts(row["text"] for row in rows)
        texts.limit = limit
        losses = OwnLosses()
        losses.share = share
        found = losses.of_student(tmp_path, [(at, {**row, "at": at}) for at, row in enumerate(rows)], texts)
        return [found.get(at) for at in range(len(rows))], losses

    return made


def test_tokens_without_a_character_belong_to_the_one_beside_them(losses_of):
    rows = [
        {"text": "x so", "ends": [0, 1, 4, 4], "logprobs": [-5.0, -1.0, -2.0, -0.5]},
        {"text": "x so", "ends": [1, 4], "logprobs": [-1.0, -2.0]},
    ]
    found, losses = losses_of(rows)
    assert found == [[[1, 3], [600, 250], [2, 2]], [[1, 3], [100, 200]]]
    assert (losses.without, losses.full) == (0, pytest.approx(6, abs=0.2))


def test_what_is_not_known_is_not_counted_as_left_out_and_what_is_not_shown_is(losses_of):
    known = {"text": "a b c", "ends": [1, 3, 5], "logprobs": [-1.0, -2.0, -3.0]}
    unknown = [{**known, key: None} for key in BY_TOKEN]
    unknown += [{"text": "", "ends": [], "logprobs": []}, {**known, "logprobs": [-1.0, float("nan"), -2.0]}]
    found, losses = losses_of(unknown)
    assert (found, losses.without, losses.full) == ([None] * 4, 0, None)
    secret = {"text": f"sk-{'a1B2' * 12}", "ends": [9, 51], "logprobs": [-1.0, -1.0]}
    long = {**known, "text": known["text"] * 20, "ends": [1, 3, 100]}
    found, losses = losses_of([secret, long, known])
    assert ([one is None for one in found], losses.without) == ([True, True, False], 2)
    short = {"text": "a", "ends": [1], "logprobs": [-1.0]}
    found, losses = losses_of([known, known, short], share=5)
    assert ([one is None for one in found], losses.without) == ([False, True, True], 2)


def test_predictions_without_them_are_shown_plain(run, tmp_path):
    rows = predictions(run)
    pq.write_table(pa.Table.from_pylist(rows).drop_columns([*BY_TOKEN]), tmp_path / "predictions.parquet")
    assert OwnLosses().of_student(tmp_path, [(0, {**rows[0], "at": 0})], Texts([rows[0]["text"]])) == {}


@pytest.fixture(scope="module")
def page(run):
    report(run)
    return run.root / "report" / "report.html"


def test_a_students_text_has_the_colours_of_its_losses(run, page):
    with opened(page) as tab:
        ready(tab).click("[data-row='4']")
        detail, told = tab.page.locator("#records-detail-4"), tab.page.locator("#records-told")
        place = detail.locator("pre").nth(1)
        full = held_in(page, "lines")["answers"]["full"]
        place.locator("[data-at]").first.wait_for()
        own = predictions(run)[3]
        tokens = stretches_of(own)
        assert detail.locator("pre").first.locator("[data-at]").count() == 0, "nobody knows the teacher's"
        assert f"its loss under that student, {full:.4g} nats or more" in tab.page.inner_text("#records-losses")
        assert not told.is_visible()
        spans = place.evaluate(SPANS)
        assert "".join(said for _, said, _ in spans) == visible(own["text"]), "nothing is lost"
        assert [at for at, _, _ in spans] == sorted(at for at, _, _ in spans)
        assert {at for at, _, _ in spans} == set(range(len(tokens)))
        for at, _, share in spans:
            assert abs(share - 42 * min(1, tokens[at][1] / full)) <= 0.7
        for at, what in ((5, "2 tokens"), (7, "token")):
            place.locator(f"[data-at='{at}']").first.hover()
            token = json.dumps(visible(tokens[at][0]), ensure_ascii=False)
            assert told.inner_text() == f"{what} {token} · loss {round(100 * tokens[at][1]) / 100:.4g} nats"
            assert told.evaluate("p => p.getBoundingClientRect().bottom <= innerHeight"), "seen"
        assert (tab.errors, tab.requests) == ([], [])


def test_keys_go_from_token_to_token_and_leave_others_to_the_browser(run, page):
    with opened(page) as tab:
        ready(tab).fill("#records-q", "<think>")
        tab.page.click("[data-row='4']")
        place = tab.page.locator("#records-detail-4 pre").nth(1)
        place.locator("[data-at]").first.wait_for()
        at = "Number(document.activeElement.dataset.at)"
        last = len(stretches_of(predictions(run)[3])) - 1
        place.locator("[data-at='8']").first.click()
        for key, to in (
            ("ArrowRight", 9),
            ("ArrowLeft", 8),
            ("Shift+ArrowRight", 8),
            ("Control+End", 8),
            ("End", last),
            ("ArrowRight", last),
            ("Home", 0),
        ):
            tab.page.keyboard.press(key)
            assert tab.page.evaluate(at) == to, key
            assert place.locator("[tabindex='0']").count() == 1
        for _ in range(5):
            tab.page.keyboard.press("ArrowRight")
        assert tab.page.evaluate(at) == 5, "a hit that parts a token is no second one"
        assert place.locator(".hit").count() > 0
        assert violations(tab, within="#traces") == []


def test_open_lines_are_coloured_where_they_are_seen_and_all_on_paper(tmp_path):
    """So that a keystroke takes no longer for them."""
    text = "so it goes " * 100
    losses = [[3, 3, 5] * 100, [5, 70, 300] * 100]
    answer = {"says": "right", "answer": "7", "tokens": 300, "faults": [], "note": "", "text": text, "loss": losses}
    own = {"question": "q", "gold": "7", "teachers": [], "more": 0, "answers": [answer] * 3}
    answers = {"students": ["a", "b", "c"], "questions": [own] * 50, "left_out": 0, "limit": 9999, "cut": 0}
    body = section.written({**answers, "checked": 50, "full": 2.0}, [])
    path = tmp_path / "page.html"
    whole = document("t", "<h1>t</h1>", body, styles=section.styles(body), scripts=section.scripts(body))
    path.write_text(whole, encoding="utf-8")
    with opened(path) as tab:
        ready(tab).click("#records-open")
        tab.page.locator("[data-at]").first.wait_for()
        assert tab.page.locator("#records-table pre").count() == 150
        assert 0 < tab.page.locator("pre:has([data-at])").count() < 30
        tab.page.locator("#records-detail-40 pre").first.scroll_into_view_if_needed()
        tab.page.locator("#records-detail-40 [data-at]").first.wait_for()
        assert tab.page.locator("pre:has([data-at])").count() < 60
        tab.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert tab.page.locator("pre:has([data-at])").count() == 150
        assert tab.errors == []
