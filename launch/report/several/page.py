"""Several runs in one page: their answers side by side, what differs between them, then each of them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.arms import answered, title
from tracestill.launch.report.diff_runs import ABSENT, NOT_ALIKE, Row, text_of
from tracestill.launch.report.document import document
from tracestill.launch.report.page import Section, inside
from tracestill.launch.report.parts import Found, table, text
from tracestill.launch.report.plots.bars import intervals
from tracestill.launch.report.plots.figure import SERIES
from tracestill.launch.report.records.held_out import Key
from tracestill.launch.report.records.section import scripts, styles
from tracestill.launch.report.several.losses import together
from tracestill.launch.report.several.pairs import Right, pairs

HEADING = re.compile(r"<(/?)h([1-5])>")
ABOUT = {
    "recipe": "Keys of the recipe",
    "results": "Results",
    "data": "Data: what each stage wrote, by its digest",
    "versions": "Versions of what the runs were made with",
}


@dataclass(frozen=True)
class Shown:
    """A run of the page."""

    name: str
    found: Found  # see report.gather
    sections: Sequence[Section]
    asked: frozenset[Key]  # the held-out questions that a model of it answered
    right: Mapping[str, Right]  # see pairs.right_of
    tokenizers: Mapping[str, str]  # arm -> what changes with its tokenizer
    questions: str  # changes with the questions that it keeps from training


def page(runs: Sequence[Shown], diffs: Sequence[Mapping[str, Sequence[Row]]], records: str = "") -> str:
    """The whole page; ``diffs``: ``diff_runs`` of the first run with each of the others; ``records``: the section of
    all runs' questions and answers."""
    names = [run.name for run in runs]
    head = f"<h1>{len(runs)} runs</h1><p class='soft'>{in_html(', '.join(names))}</p>"
    each = (lowered(f"<h1>{in_html(run.name)}</h1>{about(run.found)}{inside(run.found, run.sections)}") for run in runs)
    losses = together(
        {run.name: run.found for run in runs}, [run.tokenizers for run in runs], [run.questions for run in runs]
    )
    body = answers(runs) + losses + differences(names, diffs) + records + "".join(each)
    return document(f"{', '.join(names)}: report", head, body, styles=styles(records), scripts=scripts(records))


def about(found: Found) -> str:
    """What a run was, without its own heading."""
    return title(found).partition("</h1>")[2]


def lowered(html: str) -> str:
    """The headings one level below."""
    return HEADING.sub(lambda tag: f"<{tag[1]}h{int(tag[2]) + 1}>", html)


def answers(runs: Sequence[Shown]) -> str:
    rows, colours = [], []
    for at, run in enumerate(runs):
        before, after = answered(run.found)
        for arm, row in (before | after).items():
            share = row["accuracy"]
            rows.append((f"{run.name}: {arm}", share, row.get("accuracy_low", share), row.get("accuracy_high", share)))
            colours.append(SERIES[at % len(SERIES)])
    if not rows:
        return ""
    drawn = intervals(rows, title="Held-out questions answered right", x="share of questions", colours=colours)
    notes = "".join(
        f'<p class="note">{in_html(other(runs[0], run))}</p>' for run in runs[1:] if run.asked and other(runs[0], run)
    )
    return (
        "<h2>Right answers</h2><p class='soft'>A colour for each run; whiskers: 95 % intervals. Where two of them "
        f"overlap, the paired difference below tells more.</p>{notes}{drawn}"
        + pairs([run.name for run in runs], [run.right for run in runs])
    )


def other(first: Shown, run: Shown) -> str:
    """That a run was asked other questions than the first one; empty if it was not."""
    if first.asked == run.asked or not first.asked:
        return ""
    common = len(first.asked & run.asked)
    return (
        f"{run.name} was asked other held-out questions than {first.name}: {common:,} of its {len(run.asked):,} were "
        "asked there, too. A difference between the two may be one between the questions."
    )


def differences(names: Sequence[str], diffs: Sequence[Mapping[str, Sequence[Row]]]) -> str:
    about = f"Each run beside {in_html(names[0])}; what all share is left out, but for results."
    parts = [f"<h2>What differs</h2><p class='soft'>{about}</p>"]
    for part, heading in ABOUT.items():
        rows = side_by_side([diff[part] for diff in diffs], keep=part == "results")
        few = [row for row in rows if part != "data" or ": " not in row[0]]
        many = [row for row in rows if row not in few]
        parts.append(f"<h3>{heading}</h3>" + (compared(names, few) if few else "<p class='soft'>all the same</p>"))
        parts.append(f"<details><summary>Counts</summary>{compared(names, many)}</details>" if many else "")
    return "".join(parts)


def compared(names: Sequence[str], rows: Sequence[tuple[str, Sequence[Any]]]) -> str:
    numbers = any(isinstance(value, int | float) for _, values in rows for value in values)
    heads = ["", *(text(in_html(name), left=not numbers) for name in names)]
    return table(heads, [[text(in_html(what)), *(cell(value) for value in values)] for what, values in rows])


def cell(value: Any) -> str:
    said = in_html(text_of(value))
    return said if isinstance(value, int | float) or value == ABSENT else text(said)


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
