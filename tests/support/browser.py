"""HTML pages in headless Chromium, as a reader opens them: Debian's browser, driven by Playwright.

    with opened(directory / "report.html", dark=True, width=400) as tab:
        tab.page.get_by_role("button", name="Theme").click()
        assert not tab.errors and not tab.requests
        assert not violations(tab)

Tests are skipped, with the reason, where Chromium or Playwright is absent: ``apt-get install chromium`` and
``pip install -e .[dev]``. One browser serves all tests of a process; every page has a profile of its own.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
BAD = ("serious", "critical")  # impacts that axe tells


@dataclass
class Tab:
    """A page, with what it complained of and asked for since it was opened."""

    page: Any  # playwright.sync_api.Page
    errors: list[str] = field(default_factory=list)  # console errors and warnings, and exceptions that nothing caught
    requests: list[str] = field(default_factory=list)  # addresses, without that of the page itself


@contextlib.contextmanager
def opened(
    page: Path | str,
    *,
    dark: bool = False,
    width: int = 1200,
    height: int = 900,
    javascript: bool = True,
    allow_all: bool = False,
) -> Iterator[Tab]:
    """A page from a file or, as text, from an address: loaded, in a fresh profile.

    ``width`` and ``height`` in CSS pixels; ``allow_all`` sets the page's Content-Security-Policy aside.
    """
    address = page.resolve().as_uri() if isinstance(page, Path) else page
    with driven() as browser:
        context = browser.new_context(
            viewport={"width": width, "height": height},
            color_scheme="dark" if dark else "light",
            java_script_enabled=javascript,
            reduced_motion="reduce",
            bypass_csp=allow_all,
        )
        try:
            tab = Tab(context.new_page())
            tab.page.set_default_timeout(30_000)  # milliseconds
            tab.page.on("console", lambda said: note(tab.errors, said.text, said.type in ("error", "warning")))
            tab.page.on("pageerror", lambda error: note(tab.errors, str(error), True))
            tab.page.on("request", lambda asked: note(tab.requests, asked.url, asked.url != address))
            tab.page.goto(address)
            yield tab
        finally:
            context.close()


def note(to: list[str], text: str, counts: bool) -> None:
    if counts:
        to.append(text)


def violations(tab: Tab, *rules: str, within: str = "html") -> list[str]:
    """What axe finds serious or critical on the page as it stands, or of ``rules`` alone, and ``within`` one part of
    it, a selector: the rule, and the element.

    Drawings that are hidden from screen readers are left out: they have thousands of elements.
    """
    from axe_playwright_python.sync_playwright import Axe

    options = {"runOnly": list(rules)} if rules else None
    context = {"include": [[within]], "exclude": [["svg[aria-hidden=true]"]]}
    found = Axe().run(tab.page, context, options).response["violations"]
    return [f"{rule['id']}: {node['html']}" for rule in found if rule["impact"] in BAD for node in rule["nodes"]]


@contextlib.contextmanager
def driven() -> Iterator[Any]:
    """The browser. Between two uses no event loop is said to run: Playwright's would keep other tests from theirs."""
    before = asyncio._get_running_loop()  # asked first: the start leaves Playwright's running
    browser, loop = started()
    asyncio._set_running_loop(loop)
    try:
        yield browser
    finally:
        asyncio._set_running_loop(before)


@functools.cache
def started() -> tuple[Any, asyncio.AbstractEventLoop]:
    """Starts the browser, once a process."""
    if not CHROMIUM.exists():
        pytest.skip(f"{CHROMIUM} is missing: apt-get install chromium, or name another one in CHROMIUM")
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is missing: pip install -e .[dev]")
    pytest.importorskip("axe_playwright_python", reason="axe is missing: pip install -e .[dev]")
    playwright = sync_api.sync_playwright().start()
    loop = asyncio.get_running_loop()
    browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=list(FLAGS))

    def stop() -> None:
        asyncio._set_running_loop(loop)
        browser.close()
        playwright.stop()

    atexit.register(stop)
    return browser, loop
