"""The section "Traces" in a browser: searched, filtered, sorted, by mouse and by keyboard; 5,000 questions in time."""

from __future__ import annotations

import json
import random
import re

import pytest
from answered_run import FALSE, answered_run
from browser import opened, violations
from fake_run import HOSTILE, report
from scored_run import made_up, write_scores
from traces_page import held_in, ready, until

from tracestill.launch.report.document import document
from tracestill.launch.report.records import section
from tracestill.launch.watch.live_report import LiveReport
from tracestill.launch.watch.serve import served

KEYSTROKE = 100  # ms
SCORE = {"base": {"model": "student", "channels": ["nll", "influence"]}}
BREAKS_OUT = "</script><img src=x onerror=\"document.title='broken'\"><!--<script>"


def of_section(body: str, style: str = "") -> str:
    """A page that holds nothing but the section."""
    return document("t", "<h1>t</h1>", body, styles=(*section.styles(body), style), scripts=section.scripts(body))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The report of a small run."""
    run = answered_run(tmp_path_factory.mktemp("page") / "run", score=SCORE)
    write_scores(run, "before", made_up)
    report(run)
    return run.root / "report" / "report.html"


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """5,000 questions that two students answered, and what was made of them."""
    draw = random.Random(7)
    words = [f"w{at}" for at in range(3000)]

    def texts(count: int) -> str:
        return " ".join(draw.choices(words, k=count))

    def answered(says: str, at: int) -> dict:
        ways = {"right": (str(at % 97), []), "wrong": ("-", ["wrong answer"]), "no answer": (None, ["cut off"])}
        answer, fault = ways[says]
        tokens = draw.randint(5, 400)
        return {"says": says, "text": texts(60), "answer": answer, "tokens": tokens, "faults": fault, "note": ""}

    questions = []
    for at in range(5000):
        teacher = {"who": "solver", "text": texts(60), "answer": str(at % 97)}
        answers = [answered(says, at) for says in draw.choices(["right", "wrong", "no answer"], k=2)]
        own = {"question": f"question {at} {texts(30)}", "gold": str(at % 97)}
        questions.append({**own, "teachers": [teacher], "more": 0, "answers": answers})
    questions[4321]["answers"][1]["text"] += " needle"
    questions[77]["question"] += f" {BREAKS_OUT}"
    answers = {"students": ["one", "two"], "questions": questions, "left_out": 0, "limit": 9, "cut": 0, "checked": 5000}
    path = tmp_path_factory.mktemp("many") / "many.html"
    path.write_text(of_section(section.written(answers, [])), encoding="utf-8")
    return path, questions


def shown(tab):
    """Numbers of the questions on the page of the table."""
    return [
        int(n) for n in tab.page.eval_on_selector_all("#records-table [data-row]", "all => all.map(n => n.dataset.row)")
    ]


def count_of(tab):
    return int(re.match(r"[\d,]+", tab.page.inner_text("#records-count"))[0].replace(",", ""))


@pytest.mark.parametrize("dark", [False, True])
def test_the_section_has_no_errors_asks_for_nothing_and_reads_aloud(page, dark):
    with opened(page, dark=dark, allow_all=True) as tab:
        ready(tab)
        tab.page.click("#records-open")
        tab.page.select_option("#records-by", label="loss (base.nll)")
        assert violations(tab, within="#traces") == []
        assert (tab.errors, tab.requests) == ([], [])
        tab.page.select_option("#records-by", label="influence (base.influence)")
        assert violations(tab, within="#records-tokens") == []


def test_all_texts_of_a_question_stand_side_by_side_and_false_steps_are_marked(page):
    with opened(page) as tab:
        ready(tab)
        assert shown(tab) == list(range(1, 12))
        tab.page.click("[data-row='4']")
        detail = tab.page.locator("#records-detail-4")
        assert detail.locator("h3").all_inner_texts() == ["teacher: solver", "before", "after"]
        assert detail.locator("mark").all_inner_texts() == [FALSE]
        assert HOSTILE in detail.inner_text(), "as it was written"
        assert tab.page.get_attribute("[data-row='4']", "aria-expanded") == "true"
        assert tab.page.locator("script", has_text="alert").count() == 0
        assert tab.page.evaluate("document.activeElement.dataset.row") == "4"
        tab.page.keyboard.press("Escape")
        assert detail.count() == 0


def test_search_filters_and_order_are_those_of_the_data(many):
    path, questions = many
    with opened(path) as tab:
        ready(tab)
        assert count_of(tab) == 5000
        tab.page.fill("#records-q", "NEEDLE")
        assert shown(tab) == [4322]
        tab.page.fill("#records-q", "")
        tab.page.select_option("#records-arm", label="two")
        tab.page.select_option("#records-says", "no answer")
        tab.page.fill("#records-min", "100")
        tab.page.fill("#records-max", "200")
        second = {at + 1: row["answers"][1] for at, row in enumerate(questions)}
        wanted = [n for n, one in second.items() if one["says"] == "no answer" and 100 <= one["tokens"] <= 200]
        assert count_of(tab) == len(wanted) > 50
        assert shown(tab) == wanted[:50]
        tab.page.click("#records-next")
        assert shown(tab) == wanted[50:100]
        for way, sign in (("ascending", 1), ("descending", -1)):
            tab.page.click("th[data-key=tokens] button")
            assert tab.page.get_attribute("th[data-key=tokens]", "aria-sort") == way
            assert shown(tab) == sorted(wanted, key=lambda n: (sign * second[n]["tokens"], n))[:50]
        tab.page.click("#records-clear")
        assert shown(tab) == list(range(1, 51))
        tab.page.select_option("#records-says", "differ")
        right = [[one["says"] == "right" for one in row["answers"]] for row in questions]
        assert count_of(tab) == sum(any(each) and not all(each) for each in right)
        tab.page.select_option("#records-says", "")
        tab.page.select_option("#records-fault", "cut off")
        assert count_of(tab) == sum(any("cut off" in one["faults"] for one in row["answers"]) for row in questions)
        tab.page.click("#records-clear")
        tab.page.click("th[data-key=s0] button")
        order = {"right": 0, "wrong": 1, "no answer": 2}
        by = [
            (order[row["answers"][0]["says"]], row["answers"][0]["tokens"], at + 1) for at, row in enumerate(questions)
        ]
        assert shown(tab) == [n for *_, n in sorted(by)][:50]
        assert tab.errors == []


def test_a_keystroke_and_a_filter_take_no_longer_than_a_few_frames(many):
    """By the time that the page's thread works, search, order and layout together: other work on this machine is none
    of it."""
    with opened(many[0]) as tab:
        ready(tab)
        session = tab.page.context.new_cdp_session(tab.page)
        session.send("Performance.enable", {"timeDomain": "threadTicks"})

        def worked():
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(one["value"] for one in metrics if one["name"] == "TaskDuration")

        took = {}
        typed = [("q", text) for text in ("w", "w1", "w12", "w123", "w1234", "needle", "")]
        for field, value in [*typed, ("says", "wrong")]:
            begun = worked()
            tab.page.evaluate(
                """([field, value]) => {
                    const at = document.getElementById("records-" + field);
                    at.value = value;
                    at.dispatchEvent(new Event("input", {bubbles: true}));
                    document.body.offsetHeight; // laid out
                }""",
                [field, value],
            )
            took[value] = 1000 * (worked() - begun)
        assert 0 < max(took.values()) < KEYSTROKE, took


def test_it_is_led_by_keys(many):
    with opened(many[0]) as tab:
        keys, focus = ready(tab).keyboard, "document.activeElement.dataset.row || document.activeElement.id"
        keys.press("/")
        assert tab.page.evaluate(focus) == "records-q"
        keys.type("w/7")
        assert tab.page.input_value("#records-q") == "w/7", "a / within a text is a letter"
        keys.press("Escape")
        assert (tab.page.input_value("#records-q"), count_of(tab)) == ("", 5000)
        keys.press("ArrowDown")
        keys.press("ArrowDown")
        assert tab.page.evaluate(focus) == "2"
        keys.press("Enter")
        assert tab.page.locator("#records-detail-2").count() == 1
        assert tab.page.evaluate(focus) == "2"
        keys.press("ArrowDown")
        keys.press("PageDown")
        assert tab.page.evaluate(focus) == "51"
        keys.press("PageUp")
        keys.press("ArrowUp")
        assert tab.page.evaluate(focus) == "records-q"


def test_the_address_keeps_what_is_chosen(many):
    with opened(many[0]) as tab:
        ready(tab)
        tab.page.fill("#records-q", "w77 ")
        tab.page.click("th[data-key=gold] button")
        tab.page.click(f"[data-row='{shown(tab)[1]}']")
        before = shown(tab), tab.page.locator("#records-table").inner_text()
        until(tab, "location.hash.includes('open=')")
        address = tab.page.url
    with opened(address) as tab:
        ready(tab)
        assert (shown(tab), tab.page.locator("#records-table").inner_text()) == before
        assert tab.page.input_value("#records-q") == "w77 "
        tab.page.evaluate("location.hash = '#elsewhere'")
        assert count_of(tab) < 5000, "other places of the page change nothing"
        tab.page.evaluate("location.hash = '#traces?says=wrong'")
        until(tab, "document.getElementById('records-says').value === 'wrong'")


def test_texts_of_models_do_nothing(many):
    with opened(many[0]) as tab:
        ready(tab)
        tab.page.fill("#records-q", "onerror")
        tab.page.click("[data-row='78']")
        assert BREAKS_OUT in tab.page.locator("#records-detail-78").inner_text()
        assert tab.page.title() == "t"
        assert tab.page.locator("#traces img").count() == 0
        assert (tab.errors, tab.requests) == ([], [])


def test_tokens_of_false_steps_are_marked_and_no_others(tmp_path):
    errs = {"teachers": [{"name": "solver", "options": {"error_rate": 0.3}}], "samples": 3}
    run = answered_run(tmp_path / "run", sample=errs, select={"policy": "none"})
    report(run)
    page = run.root / "report/report.html"
    with opened(page) as tab:
        ready(tab)
        stores, marked = held_in(page, "documents"), 0
        for at, store in enumerate(stores):
            tab.page.select_option("#records-store", index=at)
            for number, one in enumerate(store["documents"]):
                tab.page.select_option("#records-doc", index=number)
                where = "all => all.map(span => Number(span.dataset.at))"
                false = tab.page.eval_on_selector_all("#records-tokens span.false", where)
                steps = zip(one["kinds"], one["steps"], strict=True)
                assert false == [
                    i for i, (kind, step) in enumerate(steps) if kind in store["trace"] and str(step) in one["false"]
                ]
                assert bool(false) == bool(one["false"])
                marked += len(false)
        assert marked > 0
        assert any(not one["false"] for one in stores[0]["documents"])


def test_tokens_have_their_colours_and_tell_their_numbers(page):
    with opened(page) as tab:
        ready(tab)
        store = held_in(page, "documents")[0]
        tab.page.select_option("#records-doc", index=1)
        tab.page.select_option("#records-by", label="loss (base.nll)")
        one = store["documents"][1]
        spans = tab.page.locator("#records-tokens span")
        assert spans.count() == len(one["tokens"])
        at = one["values"][0].index(max(value for value in one["values"][0] if value is not None))
        spans.nth(at).hover()
        told = tab.page.inner_text("#records-token")
        kind = store["kinds"][one["kinds"][at]][0]
        assert told.startswith(f"token {at} {json.dumps(one['tokens'][at], ensure_ascii=False)} · {kind} · weight ")
        assert f"loss (base.nll) {one['values'][0][at]:.4g} nats" in told
        shares = tab.page.eval_on_selector_all(
            "#records-tokens span", "all => all.map(s => parseInt((s.style.background.match(/(\\d+)%/) || [0, 0])[1]))"
        )
        most = store["channels"][0][3]
        for share, value in zip(shares, one["values"][0], strict=True):
            assert abs(share - 42 * min(1, abs(value or 0) / most)) <= 0.51
        tab.page.select_option("#records-by", label="influence (base.influence)")
        red = tab.page.eval_on_selector_all(
            "#records-tokens span", "all => all.map(s => s.style.background.includes('--bad'))"
        )
        most = store["channels"][1][3]
        assert red == [value is not None and 42 * value / most <= -0.5 for value in one["values"][1]]
        assert any(red)
        tab.page.mouse.move(0, 0)  # a token that comes to lie under it would be pointed at
        spans.nth(0).focus()
        tab.page.keyboard.press("ArrowRight")
        assert tab.page.inner_text("#records-token").startswith("token 1 ")
        tab.page.keyboard.press("End")
        assert tab.page.inner_text("#records-token").startswith(f"token {len(one['tokens']) - 1} ")
        tab.page.select_option("#records-by", label="kind")
        assert not any(tab.page.eval_on_selector_all("#records-tokens span", "all => all.map(s => s.style.background)"))


def test_a_narrow_page_does_not_run_over_and_tokens_stay_where_they_are(page):
    with opened(page, width=400) as tab:
        ready(tab).click("[data-row='1']")
        right = "[...document.querySelectorAll('#traces :not(.scroll *)')].map(e => e.getBoundingClientRect().right)"
        assert max(tab.page.evaluate(right)) <= 400
        sides = tab.page.locator("#records-detail-1 .sides").bounding_box()
        assert 0 <= sides["x"] < sides["x"] + sides["width"] <= 400, "the texts fit, though the table is wider"
        token = tab.page.locator("#records-tokens span").nth(9)
        token.scroll_into_view_if_needed()
        tab.page.mouse.move(1, 1)
        tab.page.evaluate("document.getElementById('records-token').textContent = ''")
        place = "e => e.getBoundingClientRect().top + scrollY"
        before = token.evaluate(place), tab.page.locator("#records-token").bounding_box()["height"]
        token.hover()
        assert tab.page.inner_text("#records-token").startswith("token 9 ")
        assert tab.page.locator("#records-token").bounding_box()["height"] > before[1]
        assert token.evaluate(place) == before[0]


def test_it_holds_under_the_policy_of_the_page_that_is_served(page):
    with served(LiveReport(page.parents[1]), 0) as address, opened(address) as tab:
        ready(tab)
        assert shown(tab) == list(range(1, 12))
        assert not [text for text in tab.errors if "favicon" not in text]


def test_without_javascript_it_says_where_the_data_are_and_on_paper_the_fields_go(page):
    with opened(page, javascript=False) as tab:
        assert "needs JavaScript" in tab.page.inner_text("#traces")
    with opened(page) as tab:
        ready(tab)
        tab.page.click("[data-row='1']")
        tab.page.emulate_media(media="print")
        assert not tab.page.is_visible("#records-q")
        assert tab.page.is_visible("#records-detail-1")


def test_a_document_of_very_many_tokens_is_shown(tmp_path):
    count = 2**17
    numbers = {"weights": [[1.0] * (count - 1) + [2.0]], "values": [], "false": {}, "record_weight": 1.0}
    document = {"number": 0, "id": "a", "why": "w", "question": "", "tokens": ["x"] * count, **numbers}
    document |= {"kinds": [0] * count, "steps": [0] * count}
    about = {"arms": ["a"], "weighs": [0], "unknown": {}, "kinds": [["prose", "k0"]], "trace": [0], "channels": []}
    path = tmp_path / "long.html"
    store = {**about, "documents": [document], "of": 1, "hidden": 0}
    quick = "#records-tokens{display:none}"  # laying them out takes seconds
    path.write_text(of_section(section.written({"questions": []}, [store]), quick), encoding="utf-8")
    with opened(f"{path.as_uri()}#traces?by=weight") as tab:
        assert ready(tab).evaluate("document.getElementById('records-tokens').childElementCount") == count
        assert "weight 2" in tab.page.inner_text("#records-scale")
        assert tab.errors == []


@pytest.mark.parametrize(("of", "to"), [('("gzip": ")H4sI.{9}', r"\1H4sIAAAA"), ('{"gzip": .*?}', section.packed({}))])
def test_a_damaged_file_says_so(page, tmp_path, of, to):
    broken = tmp_path / "broken.html"
    broken.write_text(re.sub(of, to, page.read_text()), encoding="utf-8")
    with opened(broken) as tab:
        until(tab, "document.getElementById('records-wait').textContent.includes('cannot be shown')")
        assert not tab.page.is_visible("#records-app")
