"""The report as a reader has it: in headless Chromium, with every section, by mouse and by keyboard."""

import contextlib
import itertools

import pytest
from browser import opened, violations
from fake_run import claim, run_data_stages
from whole_page import whole

from tracestill.launch.watch.serve import SCRIPT, served

READY = "html[data-plots=drawn]"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = claim(folder / "run")
    run_data_stages(run)
    found, text = whole(run, folder / "asked")
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html", found, text


@contextlib.contextmanager
def drawn(path, **how):
    with opened(path, **how) as tab:
        if how.get("javascript", True):
            tab.page.wait_for_selector(READY, state="attached")
        yield tab
        assert tab.errors == []
        assert tab.requests == []


def test_every_figure_is_drawn_and_hostile_texts_do_nothing(report):
    path, _, text = report
    with drawn(path) as tab:
        page = tab.page
        figures = page.locator("figure.drawn")
        assert figures.count() == text.count('<figure class="drawn">') > 30
        assert page.locator("figure.drawn .plot svg").count() == figures.count()
        empty = page.evaluate(
            "[...document.querySelectorAll('.plot svg')].filter(s => !s.querySelector('path')).length"
        )
        assert empty == 0
        assert page.title() == "mini: report"
        assert page.locator("img").count() == 0
        assert "onerror" in page.locator("main").inner_text(), "shown as text"
        assert page.evaluate("document.querySelectorAll('script:not([type])').length") == text.count("<script>")


def test_bars_are_as_long_as_their_shares(report):
    with drawn(report[0]) as tab:
        bars = tab.page.locator("figure.drawn").first.locator("svg .mark-rect path")
        long, short = (bars.nth(at).bounding_box()["width"] for at in (0, 1))
        assert long / short == pytest.approx(0.875 / 0.125, rel=0.02)


def test_the_pointer_shows_the_numbers(report):
    with drawn(report[0]) as tab:
        page, tip = tab.page, tab.page.locator(".tip")
        bar = page.locator("figure.drawn").first.locator("svg .mark-rect path").first
        bar.hover()
        assert tip.inner_text().splitlines() == ["traces", "share 87.5%", "from 82.5%", "to 92.5%"]
        curve = page.locator("figure.drawn", has_text="loss, weighted: traces").first.locator(".plot")
        curve.scroll_into_view_if_needed()
        box = curve.bounding_box()
        page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
        told = tip.inner_text().splitlines()
        assert told[0] == "step 40"
        assert told[1].startswith("traces: 0.257"), "0.15 + 3 exp(-40 / 12)"
        page.mouse.move(2, 2)
        assert tip.is_hidden()


@pytest.mark.parametrize("dark", [False, True])
def test_axe_finds_nothing_serious(report, dark):
    with opened(report[0], dark=dark, allow_all=True) as tab:
        tab.page.wait_for_selector(READY, state="attached")
        tab.page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true; })")
        assert violations(tab) == []


def test_the_theme_is_the_systems_until_the_button_says_another(report):
    background = "getComputedStyle(document.body).backgroundColor"
    label = "getComputedStyle(document.querySelector('.plot svg text')).fill"
    for dark in (False, True):
        with drawn(report[0], dark=dark) as tab:
            button = tab.page.locator("#theme")
            assert button.inner_text() == ("Light theme" if dark else "Dark theme")
            before = tab.page.evaluate(background), tab.page.evaluate(label)
            button.click()
            after = tab.page.evaluate(background), tab.page.evaluate(label)
            assert all(one != other for one, other in zip(before, after, strict=True))
            assert button.inner_text() == ("Dark theme" if dark else "Light theme")
            tab.page.emulate_media(media="print")
            assert tab.page.evaluate(background) == "rgb(255, 255, 255)", "paper is light"


def test_the_keyboard_reaches_everything(report):
    with drawn(report[0], width=400) as tab:
        page = tab.page
        wanted = page.evaluate(
            "[...document.querySelectorAll('a[href], button, summary, .scroll')].filter(e => e.checkVisibility() && "
            "(!e.matches('.scroll') || e.scrollWidth > e.clientWidth + 1)).length"
        )
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0, "seen while it has the focus"
        reached = 1
        while reached <= wanted:
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement === document.body"):
                break
            reached += 1
        assert reached == wanted
        summary = page.locator("figure.drawn summary").first
        summary.focus()
        page.keyboard.press("Enter")
        assert page.locator("figure.drawn table").first.is_visible()


def test_headings_have_an_order_and_contents_lead_to_them(report):
    with drawn(report[0]) as tab:
        page = tab.page
        levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
        links = page.locator("nav a")
        assert links.count() == levels.count(2)
        last = links.last
        last.click()
        assert page.locator(f"h2{last.get_attribute('href')}").bounding_box()["y"] < 900


def test_nothing_is_wider_than_a_telephone(report):
    with drawn(report[0], width=400) as tab:
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= 400


def test_without_scripts_the_tables_hold_the_numbers(report):
    with drawn(report[0], javascript=False) as tab:
        page = tab.page
        assert page.locator(".plot").first.is_hidden()
        page.locator("figure.drawn summary").first.click()
        assert "87.5%" in page.locator("figure.drawn table").first.inner_text()


def test_every_axis_says_what_it_shows(report):
    """Where an axis has no title, its unit would have to be guessed; names of bars speak for themselves."""
    with drawn(report[0]) as tab:
        titles = tab.page.evaluate(
            "[...document.querySelectorAll('figure.drawn')].map(f => [f.querySelector('figcaption').textContent, "
            "'follow' in JSON.parse(f.querySelector('script').textContent), "
            "[...f.querySelectorAll('.role-axis-title text')].filter(t => t.textContent.trim()).length])"
        )
        assert [caption for caption, curves, count in titles if count < (2 if curves else 1)] == []


class Pages:
    def __init__(self, text):
        self.text, self.stamp = text, "a1"

    def token(self):
        return self.stamp

    def page(self):
        return self.text, self.stamp


def test_the_served_page_is_the_same_and_loads_itself_again(report, monkeypatch):
    monkeypatch.setattr("tracestill.launch.watch.serve.SCRIPT", SCRIPT.replace("2000", "50"))
    pages = Pages(report[2])
    with served(pages, 0) as address, opened(address) as tab:
        tab.page.wait_for_selector(READY, state="attached")
        assert tab.page.locator(".plot svg").count() > 30
        pages.text, pages.stamp = report[2].replace("<h1>mini", "<h1>another"), "b2"
        tab.page.wait_for_selector("h1:has-text('another')")
        tab.page.wait_for_selector(READY, state="attached")
        assert tab.errors == []
        assert {request.removeprefix(address) for request in tab.requests} == {"token"}
