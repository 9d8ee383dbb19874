"""Several runs in one page: their answers side by side, what differs between them, then each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.arms import answered, title
from tracestill.launch.report.diff_runs import ABSENT, NOT_ALIKE, Row, text_of
from tracestill.launch.report.document import document
from tracestill.launch.report.page import Section, inside
from tracestill.launch.report.parts import Found, table, text
from tracestill.launch.report.plots.bars import intervals
from tracestill.launch.report.plots.figure import SERIES

HEADING = re.compile(r"<(/?)h([1-5])>")
SAME = "nothing"
ABOUT = {
    "recipe": "Keys of the recipe that differ",
    "data": "Data: digests of stages, and counts",
    "versions": "Versions of what the runs were made with",
    "results": "Results",
}


def page(runs: Sequence[tuple[str, Found, Sequence[Section]]], diffs: Sequence[Mapping[str, Sequence[Row]]]) -> str:
    """The whole page of ``runs`` (name, what ``report.gather`` found, its sections); ``diffs``: ``diff_runs`` of the
    first one with each of the others."""
    names = [name for name, _, _ in runs]
    head = f"<h1>{len(runs)} runs</h1><p class='soft'>{in_html(', '.join(names))}</p>"
    each = (lowered(f"<h1>{in_html(name)}</h1>{about(found)}{inside(found, own)}") for name, found, own in runs)
    body = answers(runs) + differences(names, diffs) + "".join(each)
    return document(f"{', '.join(names)}: report", head, body)


def about(found: Found) -> str:
    """What a run was, without its own heading."""
    return title(found).partition("</h1>")[2]


def lowered(html: str) -> str:
    """The headings one level below."""
    return HEADING.sub(lambda tag: f"<{tag[1]}h{int(tag[2]) + 1}>", html)


def answers(runs: Sequence[tuple[str, Found, Sequence[Section]]]) -> str:
    rows, colours = [], []
    for at, (name, found, _) in enumerate(runs):
        before, after = answered(found)
        for arm, row in (before | after).items():
            share = row["accuracy"]
            rows.append((f"{name}: {arm}", share, row.get("accuracy_low", share), row.get("accuracy_high", share)))
            colours.append(SERIES[at % len(SERIES)])
    if not rows:
        return ""
    drawn = intervals(rows, title="Held-out questions answered right", x="share of questions", colours=colours)
    return (
        "<h2>Right answers</h2><p class='soft'>A colour for each run; whiskers: 95 % intervals. Where two of them "
        "overlap, the runs may be equally good; and they compare only if both were asked the same questions (Data, "
        f"below).</p>{drawn}"
    )


def differences(names: Sequence[str], diffs: Sequence[Mapping[str, Sequence[Row]]]) -> str:
    parts = [f"<h2>What differs</h2><p class='soft'>Against {in_html(names[0])}; what all runs share is left out.</p>"]
    for part, heading in ABOUT.items():
        rows = side_by_side([diff[part] for diff in diffs], keep=part == "results")
        heads = ["", *(text(in_html(name)) for name in names)]
        body = [[text(in_html(what)), *(text(in_html(text_of(value))) for value in values)] for what, values in rows]
        parts.append(f"<h3>{heading}</h3>" + (table(heads, body) if body else f"<p class='soft'>{SAME}</p>"))
    return "".join(parts)


def side_by_side(diffs: Sequence[Sequence[Row]], *, keep: bool) -> list[tuple[str, list[Any]]]:
    """Name -> the value of each run. What one diff does not name is in its run as in the first; ``keep``: or is not
    there."""
    found: dict[str, list[Any]] = {}
    unlike = {what.removesuffix(NOT_ALIKE) for rows in diffs for what, *_ in rows if what.endswith(NOT_ALIKE)}
    for at, rows in enumerate(diffs, 1):
        for what, first, other in rows:
            name = what.removesuffix(NOT_ALIKE)
            row = found.setdefault(name, [first, *([ABSENT if keep else first] * len(diffs))])
            row[at] = other
            row[0] = first if row[0] == ABSENT else row[0]
    return [(name + NOT_ALIKE if name in unlike else name, values) for name, values in found.items()]
