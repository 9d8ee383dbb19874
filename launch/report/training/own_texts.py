"""The report's part on students that learnt from texts of their own: what these were, refresh after refresh."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tracestill.data_pipeline.base.intervals import wilson
from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.parts import Found, legend, table, text
from tracestill.launch.report.plots.figure import SERIES, keys
from tracestill.launch.report.plots.lines import Point, lines
from tracestill.launch.report.rounds_page import COLUMNS
from tracestill.trainer.preview.page import kind_class

WAYS = (
    *("traces", "right", "paths a question", "entropy", "self-BLEU", "rare seen (chance)", "rare tried (chance)"),
    *("words", "tokens a text", "ways gone"),
)  # columns as those of rounds
PARTS = ("writing", "teacher", "training")  # of the time
SHARE = "share of texts"


def own_texts(found: Found) -> str:
    """Empty where no student wrote any."""
    held = {arm: row["train"]["own_texts"] for arm, row in found["arms"].items() if row["train"]}
    held = {arm: own for arm, own in held.items() if own and own["refreshes"]}
    if not held:
        return ""

    def series(of: str, pick: Callable[[Found], tuple[float, ...]]) -> dict[str, list[Point]]:
        points = {
            arm: [(row["x"], *pick(row)) for row in held[arm][of]] if arm in held else [] for arm in found["arms"]
        }
        return {arm: [point for point in row if point[1] is not None] for arm, row in points.items()}

    def share(name: str, *, whole: str = "in") -> Callable[[Found], tuple[float, ...]]:
        return lambda row: (row[name] / row[whole] if row[whole] else None,)  # type: ignore[return-value]

    def right(row: Found) -> tuple[float, ...]:
        return share("right")(row) + (wilson(row["right"], row["in"]) if row["in"] else ())

    each: Any = {"x": "refresh", "log": False}
    texts: Any = {**each, "y": SHARE, "percent": True}
    charts = [
        lines(series("refreshes", right), title="own texts that are right", **texts),
        lines(series("refreshes", lambda row: (row["tokens_mean"],)), title="length of own texts", y="tokens", **each),
        lines(series("refreshes", share("cut_off")), title="own texts that were cut off", **texts),
        lines(series("refreshes", share("different")), title="distinct own texts", **texts),
        lines(series("refreshes", share("out")), title="own texts that became documents", **texts),
        lines(series("refreshes", share("unread", whole="out")), title="documents that no step reads", **texts),
    ]
    charts += [divergences(arm, own, found["kinds"]) for arm, own in held.items()]
    ratio = series("ratio", lambda row: (row["ratio"],))
    bound = series("ratio", lambda row: (row["ratio_bound"],))
    charts.append(lines(ratio, title="age of texts: probability now over that when drawn", y="mean ratio", log=False))
    charts.append(lines(bound, title="tokens at the bound of that ratio", y="share of tokens", log=False, percent=True))
    charts += [times(arm, own) for arm, own in held.items()]
    heads = ["arm", "refreshes", "texts", "right, first", "right, last", "tokens, first", "tokens, last", *PARTS]
    ended = "".join(
        f'<p class="note">{in_html(arm)} ended early: {in_html(own["ended"])}.</p>'
        for arm, own in held.items()
        if own["ended"]
    )
    return (
        "<h2>Texts of its own</h2><p class='soft'>What students wrote to learn from, in the order of refreshes. Length "
        "that grows while what is right does not, or ever fewer distinct texts, is the beginning of a "
        "collapse; ratios far from 1 say that texts are too old. The divergence is the mean of the lines of a refresh, "
        "and falls within one by itself. Band: 95 % interval.</p>"
        + legend(found, list(held))
        + f'<div class="many">{"".join(charts)}</div>'
        + table(heads, [[text(in_html(arm)), *cells(own)] for arm, own in held.items()])
        + ways(found)
        + ended
    )


def ways(found: Found) -> str:
    """How the first texts of a student solve, and how the last ones do."""
    cell_of = dict(COLUMNS)
    body = []
    for arm, row in found["arms"].items():
        for one in row.get("own_ways", ()):
            held = {"round": 1, "traces": one}
            differ = "" if one["differ"] is None else f"{one['differ']:.0%}"
            body.append([text(in_html(arm)), f"{one['refresh']:,}", differ, *(cell_of[head](held) for head in WAYS)])
    if not body:
        return ""
    told = (
        "<p class='soft'>How the first texts solve, and how the last ones do, those that are right and sound but for "
        "traces, rare tried, words and tokens: fewer ways are what reverse divergences tend to. Rare ways, and those "
        "that are gone, are of the first texts (docs/rounds.md).</p>"
    )
    return told + table(["arm", "refresh", "differ", *WAYS], body)


def divergences(arm: str, own: Found, kinds: list[str]) -> str:
    """By kind, in the kinds' colours; empty without a teacher."""
    series = {
        kind: [(row["x"], row["kinds"][kind]) for row in own["divergence"] if kind in row["kinds"]] for kind in kinds
    }
    series = {kind: points for kind, points in series.items() if points}
    colours = [kind_class(kind, kinds) for kind in series]
    title = f"divergence from the teacher by kind, {arm}"
    chart = lines(series, title=title, x="refresh", y="nats a token", colours=colours or SERIES)
    return f"<div>{chart}{keys(dict(zip(series, colours, strict=True)))}</div>" if chart else ""


def times(arm: str, own: Found) -> str:
    """Where the time went, from line to line of the log."""
    series = {part: [(row["x"], row[part]) for row in own["time"]] for part in PARTS}
    chart = lines(series, title=f"share of the time, {arm}", y="share of the time", log=False, percent=True)
    return f"<div>{chart}{keys(dict(zip(PARTS, SERIES, strict=False)))}</div>" if chart else ""


def cells(own: Found) -> list[str]:
    first, last = own["refreshes"][0], own["refreshes"][-1]
    right = [f"{row['right'] / row['in']:.1%}" if row["in"] else "" for row in (first, last)]
    spent = [f"{own['spent'][part]:.0%}" if own["spent"] else "" for part in PARTS]
    written = sum(row["in"] for row in own["refreshes"])
    tokens = [f"{row['tokens_mean']:,.1f}" for row in (first, last)]
    return [f"{len(own['refreshes']):,}", f"{written:,}", *right, *tokens, *spent]
