"""The yield report in the page: charts of what got lost where, of the ceiling and of difficulty; then its tables."""

from __future__ import annotations

from collections.abc import Sequence

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, by_arm, table, text
from tracestill.launch.report.plots.bars import stacked
from tracestill.launch.report.plots.figure import SERIES, keys
from tracestill.launch.report.plots.lines import lines
from tracestill.launch.report.yields.tables import MANY, head, name_of, tables

LOST = (("unread", "asked", "read"), ("no answer", "read", "answered"), ("wrong answer", "answered", "right"),
        ("false step", "right", "sound"))  # fmt: skip
LINES = len(SERIES) - 1  # curves of the ceiling beside that of all
SHARES = (("questions", "questions"), ("samples", "asked"), ("kept records", "kept"))


def yields(found: Found) -> str:
    """A section for each way in which arms select; empty without one."""
    body = by_arm(found, "yield", lambda row, held: one(held))
    if not body:
        return ""
    return (
        "<h2>Yield and ceiling</h2><p class='soft'>What became of everything that teachers wrote, and what more "
        "samples could win. Where the curve of the ceiling still climbs, ask for more samples; where it is flat and "
        "low, ask another teacher or in another style.</p>" + body
    )


def one(held: Found) -> str:
    rows: list[Found] = next(iter(held["by"].values()), [])[:MANY]
    lost = [(name_of(row), losses(row, held["policy"])) for row in rows or [held["total"]]]
    charts = [stacked(lost, title="What was kept, and what got lost where", x="samples")]
    charts += ['<div class="many">', ceiling([held["total"], *rows[:LINES]]), "</div>", difficulty(held["difficulty"])]
    body = [f"<p>{in_html(head(held))}</p>", *charts]
    for shown in tables(held):
        body.append(f"<h3>{in_html(shown.title)}</h3>")
        if shown.rows:
            cells = [[text(in_html(cell)) if at < shown.texts else in_html(cell) for at, cell in enumerate(row)]
                     for row in shown.rows]  # fmt: skip
            body.append(table([in_html(heading) for heading in shown.heads], cells))
        if shown.warning:
            body.append(f'<p class="note">{in_html(shown.warning)}</p>')
        body += [f'<p class="soft">{in_html(note)}.</p>' for note in shown.notes]
    return "".join(body) + "".join(f'<p class="soft">{in_html(note)}.</p>' for note in held["notes"])


def losses(row: Found, policy: str) -> Sequence[tuple[str, float, str]]:
    """What is kept and what got lost where; other policies than the strict one keep some of what is wrong."""
    if policy != "strict" or row["sound"] is None:
        return [("kept", row["kept"], "s0"), ("not kept", row["asked"] - row["kept"], "s5")]
    lost = [(name, row[before] - row[after], f"s{5 - at}") for at, (name, before, after) in enumerate(LOST)]
    return [
        ("kept", row["kept"], "s0"),
        ("same path, or other reasons", row["sound"] - row["kept"], "s1"),
        *reversed(lost),
    ]


def ceiling(rows: Sequence[Found]) -> str:
    """pass@k, and dashed maj@k, over k; empty if nothing was asked twice."""
    if max(len(row["pass"]) for row in rows if "pass" in row) < 2:
        return ""
    curves = [{name_of(row): [(point["k"], point["share"]) for point in row.get(key, ())] for row in rows
               if len(row.get("pass", ())) > 1} for key in ("pass", "maj")]  # fmt: skip
    title = "solved by one of k samples; dashed: by their majority"
    drawn = lines(*curves, title=title, x="samples k of a question", y="share of questions", log=False, percent=True)
    return f"<div>{drawn}{keys({name: SERIES[at] for at, name in enumerate(curves[0])})}</div>"


def difficulty(held: Found) -> str:
    """The questions, samples and kept records by the share of a question's samples that are right, in percent."""
    rows = [(label, [(row["value"][0], 100 * row["shares"][key], f"s{at}") for at, row in enumerate(held["buckets"])])
            for label, key in SHARES]  # fmt: skip
    title = "Easy and hard questions: the share of a question's samples that are right"
    return stacked(rows, title=title, x="percent of all")
