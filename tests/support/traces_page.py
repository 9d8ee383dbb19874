"""The section "Traces" of a report's page: waited for in a browser, and unpacked without one."""

from __future__ import annotations

import base64
import gzip
import json
import re
from pathlib import Path
from typing import Any

from browser import Tab


def until(tab: Tab, expression: str) -> None:
    """Waits; the page's policy lets Playwright's own way of it evaluate nothing."""
    for _ in range(100):
        if tab.page.evaluate(expression):
            return
        tab.page.wait_for_timeout(50)
    raise AssertionError(expression)


def ready(tab: Tab) -> Any:
    """The page, once all is unpacked."""
    tab.page.wait_for_selector("#traces[data-texts=unpacked]", state="attached")
    return tab.page


def held_in(page: Path, name: str) -> Any:
    """What a page holds under a name: lines, or documents."""
    found = re.search(rf'class="records-{name}">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)
    assert found is not None, name
    return json.loads(gzip.decompress(base64.b64decode(json.loads(found[1])["gzip"])))
