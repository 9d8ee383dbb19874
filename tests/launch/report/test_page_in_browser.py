"""The report as a reader has it: in headless Chromium, with every section, by mouse and by keyboard."""

import itertools

import pytest
from browser import opened, violations
from fake_run import claim, run_data_stages
from whole_page import whole

from tracestill.launch.watch.serve import SCRIPT, served

DRAW_ALL = "window.dispatchEvent(new Event('beforeprint'))"
DRAWN = "document.querySelectorAll('figure.drawn .plot svg').length"
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
LABEL = "getComputedStyle(document.querySelector('.plot svg text')).fill"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = claim(folder / "run")
    run_data_stages(run)
    _, text = whole(run, folder / "asked")
    (folder / "report.html").write_text(text, encoding="utf-8")
    return folder / "report.html", text


@pytest.fixture(scope="module")
def tab(report):
    """The page with all that can be unfolded, for tests that change nothing for each other."""
    with opened(report[0]) as tab:
        tab.page.evaluate(DRAW_ALL)
        yield tab


@pytest.fixture(autouse=True)
def _quiet(request):
    """No test makes the shared page complain, or ask for anything."""
    yield
    if "tab" in request.fixturenames:
        tab = request.getfixturevalue("tab")
        assert (tab.errors, tab.requests) == ([], [])


def test_every_figure_is_drawn_and_hostile_texts_do_nothing(tab, report):
    page, text = tab.page, report[1]
    figures = page.locator("figure.drawn")
    assert figures.count() == text.count('<figure class="drawn">') > 30
    assert page.locator("figure.drawn .plot svg").count() == figures.count()
    bare = (
        "[...document.querySelectorAll('.plot svg')].filter(svg => !svg.querySelector('[class*=_marks] path')).length"
    )
    assert page.evaluate(bare) == 0
    assert page.title() == "mini: report"
    assert page.locator("img").count() == 0
    assert "onerror" in page.locator("main").inner_text(), "shown as text"
    assert page.evaluate("document.querySelectorAll('script:not([type])').length") == text.count("<script>")


def test_plots_are_drawn_when_they_come_near_the_window(report):
    with opened(report[0]) as tab:
        page, figures = tab.page, tab.page.locator("figure.drawn")
        figures.first.locator("svg").wait_for()
        before = 0
        while before != (before := page.evaluate(DRAWN)):  # until none follows
            page.wait_for_timeout(2000)
        assert 0 < before < figures.count() / 2, "nobody scrolled"
        assert figures.last.locator("svg").count() == 0
        figures.last.scroll_into_view_if_needed()
        figures.last.locator("svg").wait_for()
        page.evaluate(DRAW_ALL)
        assert page.evaluate(DRAWN) == figures.count()
        assert tab.errors == []


def test_bars_are_as_long_as_their_shares(tab):
    bars = tab.page.locator("figure.drawn").first.locator("svg .mark-rect path")
    long, short = (bars.nth(at).bounding_box()["width"] for at in (0, 1))
    assert long / short == pytest.approx(0.875 / 0.125, rel=0.02)


def seen(place):
    """Scrolls to it, and waits until the page knows: that hides what the pointer shows."""
    place.scroll_into_view_if_needed()
    place.page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return place


def test_the_pointer_shows_the_numbers(tab):
    page, tip = tab.page, tab.page.locator(".tip")
    seen(page.locator("figure.drawn").first.locator("svg .mark-rect path").first).hover()
    assert tip.inner_text().splitlines() == ["traces", "share 87.5%", "from 82.5%", "to 92.5%"]
    curve = seen(page.locator("figure.drawn", has_text="loss, weighted: traces").first.locator(".plot"))
    box = curve.bounding_box()
    page.mouse.move(box["x"] + box["width"] - 2, box["y"] + box["height"] / 2)
    tip.filter(has_text="step 40").wait_for()
    told = tip.inner_text().splitlines()
    assert told[0] == "step 40"
    assert told[1].startswith("traces: 0.257"), "0.15 + 3 exp(-40 / 12)"
    page.mouse.move(2, 2)
    assert tip.is_hidden()


def test_headings_have_an_order_and_contents_lead_to_them(tab):
    page = tab.page
    levels = page.evaluate("[...document.querySelectorAll('h1,h2,h3,h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    links = page.locator("nav a")
    assert links.count() == levels.count(2)
    links.last.click()
    assert page.locator(f"h2{links.last.get_attribute('href')}").bounding_box()["y"] < 900


def test_every_axis_says_what_it_shows(tab):
    """Where an axis has no title, its unit would have to be guessed; names of bars speak for themselves."""
    titles = tab.page.evaluate(
        "[...document.querySelectorAll('figure.drawn')].map(f => [f.querySelector('figcaption').textContent, "
        "'follow' in JSON.parse(f.querySelector('script').textContent), "
        "[...f.querySelectorAll('.role-axis-title text')].filter(t => t.textContent.trim()).length])"
    )
    assert [caption for caption, curves, count in titles if count < (2 if curves else 1)] == []


def test_axe_finds_nothing_serious_in_light_nor_in_dark_that_the_button_makes(tab):
    page = tab.page
    folded = "[document.querySelector('.numbers'), ...document.querySelectorAll('details:not(.numbers)')]"
    page.evaluate(f"{folded}.forEach(one => {{ one.open = true; }})")
    assert violations(tab) == []
    button = page.locator("#theme")
    assert button.inner_text() == "Dark theme"
    before = page.evaluate(BACKGROUND), page.evaluate(LABEL)
    button.click()
    after = page.evaluate(BACKGROUND), page.evaluate(LABEL)
    assert all(one != other for one, other in zip(before, after, strict=True))
    assert button.inner_text() == "Light theme"
    assert violations(tab) == []
    page.emulate_media(media="print")
    assert (page.evaluate(BACKGROUND), page.evaluate(LABEL)) == before, "paper is light"
    page.emulate_media(media="screen")


def test_on_a_telephone_in_the_dark_the_keyboard_reaches_everything(report):
    with opened(report[0], width=400, dark=True) as tab:
        page = tab.page
        assert page.evaluate(BACKGROUND) == "rgb(20, 24, 28)"
        assert page.locator("#theme").inner_text() == "Light theme"
        page.evaluate(DRAW_ALL)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
        wanted = page.evaluate(
            "[...document.querySelectorAll('a[href], button, summary, .scroll')].filter(e => e.checkVisibility() && "
            "(!e.matches('.scroll') || e.scrollWidth > e.clientWidth + 1)).length"
        )
        assert wanted > 60
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        assert page.locator(".skip").bounding_box()["x"] >= 0, "seen while it has the focus"
        for _ in range(wanted - 1):
            page.keyboard.press("Tab")
            assert page.evaluate("document.activeElement !== document.body")
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement === document.body"), "and nothing else"
        page.locator("figure.drawn summary").first.focus()
        page.keyboard.press("Enter")
        assert page.locator("figure.drawn table").first.is_visible()
        assert tab.errors == []


def test_without_scripts_the_tables_hold_the_numbers(report):
    with opened(report[0], javascript=False) as tab:
        assert tab.page.locator(".plot").first.is_hidden()
        tab.page.locator("figure.drawn summary").first.click()
        assert "87.5%" in tab.page.locator("figure.drawn table").first.inner_text()


class Pages:
    def __init__(self, text):
        self.text, self.stamp = text, "a1"

    def token(self):
        return self.stamp

    def page(self):
        return self.text, self.stamp


def test_the_served_page_is_the_same_and_loads_itself_again(report, monkeypatch):
    monkeypatch.setattr("tracestill.launch.watch.serve.SCRIPT", SCRIPT.replace("2000", "50"))
    pages = Pages(report[1])
    with served(pages, 0) as address, opened(address) as tab:
        tab.page.wait_for_selector(".plot svg", state="attached")
        pages.text, pages.stamp = report[1].replace("<h1>mini", "<h1>another"), "b2"
        tab.page.wait_for_selector("h1:has-text('another')")
        tab.page.wait_for_selector(".plot svg", state="attached")
        assert tab.errors == []
        assert {request.removeprefix(address) for request in tab.requests} == {"token"}
