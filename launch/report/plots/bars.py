"""Bars: shares with their intervals, amounts cut into parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tracestill.launch.report.plots.figure import SERIES, Spec, apart, colour, figure, keys, told

BARE = " "  # head of a line of a tip that needs none; each line of a tip has another one
STEP = 30  # pixels of a row
NAMES: Spec = {
    "type": "nominal",
    "sort": None,
    "title": None,
    "axis": {"ticks": False, "domain": False, "labelLimit": 190},
}


def intervals(
    rows: Sequence[tuple[str, float, float, float]], *, title: str, x: str, colours: Sequence[str] = SERIES
) -> str:
    """Bars from 0 to 100 % with their interval: (name, share, low, high) of each row; ``colours`` are CSS variables."""
    if not rows:
        return ""
    names = apart([name for name, *_ in rows])
    columns: dict[str, Sequence[Any]] = {
        "name": list(range(len(rows))),
        **{field: [row[place] for row in rows] for place, field in enumerate(("share", "low", "high"), 1)},
    }
    of_y = {"field": "name", **NAMES}
    of_x = {
        "field": "share",
        "type": "quantitative",
        "scale": {"domain": [0, 1]},
        "title": x,
        "axis": {"format": ".0%"},
    }
    palette = {"domain": names, "range": [colour(colours[at % len(colours)]) for at in range(len(names))]}
    shown = [("name", BARE, None), ("share", "share", ".1%"), ("low", "from", ".1%"), ("high", "to", ".1%")]
    tooltip = [{"field": field, "title": name, **({"format": form} if form else {})} for field, name, form in shown]
    ends = {"y": of_y, "x": {**of_x, "field": "low"}, "x2": {"field": "high"}, "tooltip": tooltip}
    layers = [
        {"mark": {"type": "bar", "height": {"band": 0.62}},
         "encoding": {"y": of_y, "x": of_x, "tooltip": tooltip,
                      "color": {"field": "name", "type": "nominal", "scale": palette, "legend": None}}},
        {"mark": {"type": "rule", "color": colour("ink"), "strokeWidth": 1.6}, "encoding": ends},
        *({"mark": {"type": "tick", "color": colour("ink"), "thickness": 1.6, "size": 9},
           "encoding": {"y": of_y, "x": {**of_x, "field": field}}} for field in ("low", "high")),
        {"mark": {"type": "text", "align": "left", "dx": 9, "fontSize": 14, "fontWeight": 650, "color": colour("ink")},
         "encoding": {"y": of_y, "x": {**of_x, "field": "high"},
                      "text": {"field": "share", "type": "quantitative", "format": ".1%"}}},
    ]  # fmt: skip
    body = [[name, *(told(value, True) for value in row[1:])] for name, row in zip(names, rows, strict=True)]
    table = (["", "share", "from", "to"], body)
    return figure(title, {"layer": layers, "padding": {"right": 50}}, columns, table, names={"name": names},
                  height=STEP * len(rows))  # fmt: skip


def stacked(
    rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]],  # (row, [(part, amount, CSS variable)])
    *,
    title: str,
    x: str,
    total: float | None = None,
) -> str:
    """Horizontal bars cut into parts, to one scale, in the unit that ``x`` names; the legend names each part once."""
    longest = total or max((sum(amount for _, amount, _ in parts) for _, parts in rows), default=0.0)
    if longest <= 0:
        return ""
    names = apart([name for name, _ in rows])
    parts: dict[str, str] = {}  # part -> its colour
    columns: dict[str, list[Any]] = {field: [] for field in ("name", "part", "from", "to", "amount")}
    ends, body = [], []
    for at, (_, held) in enumerate(rows):
        end = 0.0
        for part, amount, of_part in held:
            if amount <= 0:
                continue
            parts.setdefault(part, of_part)
            row = (at, list(parts).index(part), end, end + amount, amount)
            for field, value in zip(columns, row, strict=True):
                columns[field].append(value)
            end += amount
            body.append([names[at], part, told(amount)])
        ends.append({"name": names[at], "to": end, "told": told(end)})
    of_y = {"field": "name", **NAMES, "scale": {"domain": names}}
    of_x = {"field": "from", "type": "quantitative", "scale": {"domain": [0, longest], "nice": False}, "title": x}
    palette = {"domain": list(parts), "range": [colour(of_part) for of_part in parts.values()]}
    tooltip = [
        {"field": "name", "title": BARE},
        {"field": "part", "title": 2 * BARE},
        {"field": "amount", "title": x, "format": ",.6~g"},
    ]
    bar = {"mark": {"type": "bar", "height": {"band": 0.62}, "stroke": colour("page"), "strokeWidth": 0.5},
           "encoding": {"y": of_y, "x": of_x, "x2": {"field": "to"}, "tooltip": tooltip,
                        "color": {"field": "part", "type": "nominal", "scale": palette, "legend": None}}}  # fmt: skip
    sums = {"data": {"values": ends}, "mark": {"type": "text", "align": "left", "dx": 6, "color": colour("ink")},
            "encoding": {"y": of_y, "x": {**of_x, "field": "to"},
                         "text": {"field": "told", "type": "nominal"}}}  # fmt: skip
    drawn = figure(title, {"layer": [bar, sums], "padding": {"right": 60}}, columns, (["", "part", x], body),
                   names={"name": names, "part": list(parts)}, height=STEP * len(rows))  # fmt: skip
    return drawn + keys(parts)
