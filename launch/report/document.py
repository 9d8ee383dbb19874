"""The page around the sections: head, policy, contents, theme. One HTML file that needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.plots.figure import FIGURE, SERIES
from tracestill.launch.report.plots.library import plot_scripts
from tracestill.launch.report.style import STYLE
from tracestill.trainer.preview.page import colour_rules

PAGE_SCRIPT = Path(__file__).with_name("page.js")
HEADING = re.compile(r"<h2>(.*?)</h2>", re.S)  # as sections write them; no text of a run can look like one
META = '<meta http-equiv="Content-Security-Policy" content="'
ASKS_NOBODY = "connect-src 'none'"
LATE = re.compile(r'<script type="application/json" class="late [^<]*</script>')  # data that may come after the scripts
CONTENTS_FROM = 3  # headings


def document(title: str, head: str, body: str, *, styles: Sequence[str] = (), scripts: Sequence[str] = ()) -> str:
    """The whole page: ``head`` with the one h1, contents, then ``body``, whose sections begin with a plain h2.

    ``scripts`` are the page's own; they run after the library that draws plots, which is there if a figure is. Only
    these scripts can run: the page's Content-Security-Policy names their digests. Data of the class ``late`` stand
    behind them: what a browser reads after the page is there.
    """
    late = LATE.findall(body)
    listed, body = contents(LATE.sub("", body) if late else body)
    every = (*(plot_scripts() if FIGURE in head + body else ()), PAGE_SCRIPT.read_text(encoding="utf-8"), *scripts)
    style = "".join((STYLE, colour_rules(*SERIES), *styles))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'{META}{policy(every)}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{in_html(title)}</title><style>{style}</style>"
        "<noscript><style>.plot{display:none}</style></noscript></head>"
        '<body><a class="skip" href="#main">Skip to the results</a>'
        f'<header><button type="button" id="theme" hidden>Dark theme</button>{head}{listed}</header>'
        f'<main id="main" tabindex="-1">{body}</main>'
        f"{''.join(f'<script>{script}</script>' for script in every)}{''.join(late)}</body></html>\n"
    )


def contents(body: str) -> tuple[str, str]:
    """A list of the body's h2 as links, empty for a few; and the body, its headings with the names that they need."""
    found: list[tuple[str, str]] = []

    def named(heading: re.Match[str]) -> str:
        found.append((f"part-{len(found) + 1}", heading[1]))
        return f'<h2 id="{found[-1][0]}">{heading[1]}</h2>'

    body = HEADING.sub(named, body)
    if len(found) < CONTENTS_FROM:
        return "", body
    links = "".join(f'<li><a href="#{name}">{heading}</a></li>' for name, heading in found)
    return f'<nav aria-label="Contents"><ol>{links}</ol></nav>', body


def policy(scripts: Sequence[str]) -> str:
    """Nothing is fetched, and of scripts only these run."""
    digests = " ".join(digest(script) for script in scripts)
    return (
        f"default-src 'none'; script-src {digests}; style-src 'unsafe-inline'; img-src data:; {ASKS_NOBODY}; "
        "base-uri 'none'; form-action 'none'"
    )


def allowing(page: str, script: str) -> str:
    """The page with a policy that lets one more script run, and lets it ask the page's own server. A page without a
    policy stays as it is."""
    before, meta, after = page.partition(META)
    own, end, rest = after.partition('">')
    own = own.replace("script-src ", f"script-src {digest(script)} ", 1).replace(ASKS_NOBODY, "connect-src 'self'", 1)
    return f"{before}{meta}{own}{end}{rest}"


def digest(script: str) -> str:
    """A script's source in a policy."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
