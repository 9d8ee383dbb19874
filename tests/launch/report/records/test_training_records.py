"""The table of training records: what selection, the verifier and a scorer said, searched and opened in a browser."""

from __future__ import annotations

import re

import numpy as np
import pyarrow.parquet as pq
import pytest
from answered_run import answered_run
from browser import opened, violations
from fake_run import gathered, report
from scored_run import made_up, write_scores

from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.launch.report.records import documents as coloured
from tracestill.launch.report.records import training_records as module
from tracestill.launch.report.records.documents import documents
from tracestill.launch.report.records.training_records import said, training_records
from tracestill.trainer.recipe.run_directory import open_channels

ERRS = {"teachers": [{"name": "solver", "options": {"error_rate": 0.3}}], "samples": 3}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    score = {"base": {"model": "student", "channels": ["nll"]}}
    made = answered_run(tmp_path_factory.mktemp("training") / "run", score=score, sample=ERRS)
    write_scores(made, "before", made_up)
    report(made)
    return made


def rows_of(run, name):
    return {row["record_id"]: row for row in pq.read_table(run.stage("before", "select") / name).to_pylist()}


def test_rows_are_those_of_selection_the_store_and_the_scorer(run):
    found = gathered(run)
    stores = documents(run, found)
    held = training_records(run, found, stores)
    kept, rejected, verdicts = (rows_of(run, f"{name}.parquet") for name in ("records", "rejected", "verdicts"))
    assert held["every"] == len(held["records"]) == len(kept) + len(rejected) == len(verdicts)
    assert rejected
    store = TokenStore(run.stage("before", "encode") / "tokens.arrow")
    other = TokenStore(run.stage("before", "encode") / "test.arrow")
    nll = open_channels(run, "before", store)["base"]
    outside, at = ("prompt", "control", "pad"), {name: place for place, name in enumerate(store.ids)}
    for (name, row), one in zip((kept | rejected).items(), held["records"], strict=True):
        assert (one["question"], one["trace"], one["teacher"]) == (row["question"], row["trace"], row["teacher"])
        assert one["says"] == said(verdicts[name])
        if name in rejected:
            assert (one["state"], one["detail"]) == (row["reason"].replace("_", " "), row["detail"])
            assert one["tokens"] is one["loss"] is one["weight"] is None
            continue
        assert one["weight"] == 1.0
        assert one["state"] == ("kept" if name in at else "held out: test")
        if name not in at:
            assert one["tokens"] == other.lengths[list(other.ids).index(name)]
            assert one["loss"] is None
            continue
        assert one["tokens"] == store.lengths[at[name]]
        inside = np.array([store.kind_names[kind] not in outside for kind in store.kinds(at[name])])
        expected = nll.of("nll", at[name]).astype(np.float64)[inside].mean()
        assert one["loss"] == pytest.approx(expected, rel=1e-5)
        assert [stores[0]["documents"][place]["number"] for place in one["docs"]] == [at[name]]


def test_of_too_many_the_coloured_ones_stay_and_the_rest_is_drawn_by_the_seed(run, monkeypatch):
    monkeypatch.setattr(coloured, "COLOURED", 4)
    monkeypatch.setattr(module, "RECORDS", 12)
    found = gathered(run)
    stores = documents(run, found)
    held = training_records(run, found, stores)
    assert len(held["records"]) == 12 < held["every"]
    shown = [place for row in held["records"] for place in row["docs"]]
    assert sorted(shown) == list(range(len(stores[0]["documents"])))
    assert training_records(run, found, stores)["records"] == held["records"]
    assert module.drawn([False, True, False, False], 0) == [0, 1, 2, 3]
    assert 19 in module.drawn([False] * 19 + [True], 3)


@pytest.mark.parametrize(("answered", "right", "reason", "word"), [
    (False, False, "no_answer", "no answer"), (True, False, "unverified", "undecided"),
    (True, False, "wrong_answer", "not right"), (True, True, "same_path", "right"),
])  # fmt: skip
def test_the_verifiers_word(answered, right, reason, word):
    assert said({"answered": answered, "right": right, "reason": reason}) == word
    assert said(None) == ""


def test_the_table_is_searched_filtered_sorted_and_opened_in_colours(run):
    found = gathered(run)
    stores = documents(run, found)
    held = training_records(run, found, stores)["records"]
    with opened(run.root / "report/report.html", allow_all=True) as tab:
        page = tab.page
        page.wait_for_selector("#traces[data-texts=unpacked]", state="attached")

        def shown():
            rows = "all => all.map(n => Number(n.dataset.row))"
            return page.eval_on_selector_all("#records-t-table [data-row]", rows)

        def numbers(passes):
            return [at for at, row in enumerate(held, 1) if passes(row)]

        assert shown() == numbers(lambda row: True)[:50]
        state = next(row["state"] for row in held if row["state"] != "kept")
        page.select_option("#records-t-state", state)
        assert shown() == numbers(lambda row: row["state"] == state)
        assert page.inner_text("#records-t-count").startswith(f"{len(shown())} of {len(held)} records")
        page.click("#records-t-clear")
        words = held[-1]["trace"][:25]
        page.fill("#records-t-q", words.upper())
        assert shown() == numbers(lambda row: words.lower() in row["trace"].lower())
        page.click("#records-t-clear")
        page.select_option("#records-t-coloured", "yes")
        losses = {at: row["loss"] for at, row in enumerate(held, 1) if row["docs"]}
        page.click("#records-t-table th[data-key=loss] button")
        page.click("#records-t-table th[data-key=loss] button")
        assert shown() == sorted(losses, key=lambda at: (-losses[at], at))
        assert page.inner_text("#records-count").startswith("11 of 11"), "the other table is as it was"
        first = shown()[0]
        page.locator("#records-t-table [data-row]").first.focus()
        page.keyboard.press("Enter")
        own = stores[0]["documents"][held[first - 1]["docs"][0]]
        spans = page.locator(f"#records-t-detail-{first} .document span")
        assert spans.all_text_contents() == [text or "␣" for text in own["tokens"]]
        strongest = max((value, at) for at, value in enumerate(own["values"][0]) if value is not None)[1]
        assert "42%" in spans.nth(strongest).get_attribute("style")
        spans.nth(strongest).hover()
        told = page.inner_text(f"#records-t-detail-{first} .token")
        assert f"loss (base.nll) {own['values'][0][strongest]:.4g} nats" in told
        page.select_option(f"#records-t-detail-{first} .colours select", "kind")
        grounds = "all => all.map(span => span.style.background)"
        assert not any(page.eval_on_selector_all(f"#records-t-detail-{first} .document span", grounds))
        assert violations(tab, within="#traces") == []
        page.locator("#records-t-table [data-row]").first.focus()
        page.keyboard.press("Escape")
        assert spans.count() == 0
        page.keyboard.press("/")
        assert page.evaluate("document.activeElement.id") == "records-t-q", "of the table that one is in"
        assert (tab.errors, tab.requests) == ([], [])
        page.wait_for_timeout(300)
        assert re.search("t-coloured=yes.*t-sort=loss|t-sort=loss.*t-coloured=yes", page.url)
