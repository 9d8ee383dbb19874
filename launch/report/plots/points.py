"""Points with two intervals, and a matrix of shares as a heat map."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from tracestill.launch.report.plots.bars import BARE, NAMES, STEP
from tracestill.launch.report.plots.figure import SERIES, apart, colour, figure, keys, told

HEIGHT, NARROW, LETTER, LINE = 200, 240, 7, 14  # pixels: of a plot of points, of its width on a phone; of its names
FULL = 0.3  # difference at which a cell of a matrix has its full colour


def scatter(
    rows: Sequence[tuple[str, float, float, float, float]],
    *,
    title: str,
    x: str,
    y: str,
    colours: Sequence[str] = SERIES,
) -> str:
    """One point of each row: (name, x, share, low, high), with its name and the interval of its share. Names that would
    lie on each other stand in a legend instead, if each has a colour of its own."""
    if not rows:
        return ""
    names = apart([name for name, *_ in rows])
    columns: dict[str, Sequence[Any]] = {"name": list(range(len(rows)))}
    columns |= {field: [row[place] for row in rows] for place, field in enumerate(("x", "share", "low", "high"), 1)}
    most = max(row[1] for row in rows)
    of_x = {"field": "x", "type": "quantitative", "title": x, "scale": {"domain": [0, most * 1.15 or 1], "nice": False},
            "axis": {"grid": False}}  # fmt: skip
    of_y = {
        "field": "share",
        "type": "quantitative",
        "title": y,
        "scale": {"domain": [0, 1]},
        "axis": {"format": ".0%"},
    }
    palette = {"domain": names, "range": [colour(colours[at % len(colours)]) for at in range(len(names))]}
    of_name = {"field": "name", "type": "nominal", "scale": palette, "legend": None}
    told_of = [
        ("name", BARE, None),
        ("x", x, ",.1f"),
        ("share", "share", ".1%"),
        ("low", "from", ".1%"),
        ("high", "to", ".1%"),
    ]
    tooltip = [{"field": field, "title": head, **({"format": form} if form else {})} for field, head, form in told_of]
    layers = [
        {"mark": {"type": "rule", "strokeWidth": 1.6},
         "encoding": {"x": of_x, "y": {**of_y, "field": "low"}, "y2": {"field": "high"}, "color": of_name}},
        {"mark": {"type": "point", "filled": True, "size": 70, "opacity": 1},
         "encoding": {"x": of_x, "y": of_y, "color": of_name, "tooltip": tooltip}},
    ]  # fmt: skip
    classes = {name: colours[at % len(colours)] for at, name in enumerate(names)}
    by_colour = crowded(rows, most) and len(set(classes.values())) == len(names)
    if not by_colour:
        text = {"type": "text", "align": "left", "dx": 8, "dy": -6, "color": colour("ink"), "limit": 150}
        encoding = {"x": of_x, "y": of_y, "text": {"field": "name", "type": "nominal"}}
        layers.append({"mark": text, "encoding": encoding})
    body = [
        [name, told(row[1]), *(told(value, True) for value in row[2:])] for name, row in zip(names, rows, strict=True)
    ]
    drawn = figure(title, {"layer": layers}, columns, (["", x, "share", "from", "to"], body), names={"name": names},
                   height=HEIGHT)  # fmt: skip
    return drawn + (keys(classes) if by_colour else "")


def crowded(rows: Sequence[tuple[str, float, float, float, float]], most: float) -> bool:
    """Whether names beside points would lie on each other, on a narrow page."""
    points = sorted((x / (most or 1) * NARROW, share * HEIGHT, LETTER * len(name)) for name, x, share, *_ in rows)
    return any(
        right[0] - left[0] < left[2] and abs(right[1] - left[1]) < LINE
        for left, right in itertools.combinations(points, 2)
    )


def heat(cells: Sequence[tuple[str, str, float, float | None]], *, title: str, x: str, y: str) -> str:
    """A matrix: (row, column, share, difference or None); the colour is the difference, the figure the share.

    Cells that are missing stay empty. A difference of ``FULL`` has the full colour, of what is won or of what is lost.
    """
    if not cells:
        return ""
    downs = list(dict.fromkeys(row for row, *_ in cells))
    acrosses = list(dict.fromkeys(column for _, column, *_ in cells))
    gaps = ["" if gap is None else f"{100 * gap:+.1f} points" for *_, gap in cells]
    says = [f"{cell[2]:.1%} right{gap and f', {gap}'}" for cell, gap in zip(cells, gaps, strict=True)]
    columns: dict[str, Sequence[Any]] = {
        "row": [downs.index(cell[0]) for cell in cells],
        "column": [acrosses.index(cell[1]) for cell in cells],
        "share": [cell[2] for cell in cells],
        "difference": [cell[3] for cell in cells],
        "strength": [min(abs(cell[3] or 0.0) / FULL, 1.0) * 0.85 for cell in cells],
        "sign": ["won" if (cell[3] or 0.0) > 0 else "lost" for cell in cells],
        "told": says,
    }
    of_x = {"field": "column", **NAMES, "title": x, "scale": {"domain": acrosses}}
    of_x["axis"] = {"orient": "top", "labelAngle": 0, "ticks": False, "domain": False, "labelLimit": 130}
    of_y = {"field": "row", **NAMES, "title": y, "scale": {"domain": downs}}
    palette = {"domain": ["won", "lost"], "range": [colour("good"), colour("bad")]}
    tooltip = [{"field": field, "title": at * BARE} for at, field in enumerate(("row", "column", "told"), 1)]
    strength = {
        "field": "strength",
        "type": "quantitative",
        "scale": {"domain": [0, 1], "range": [0, 1]},
        "legend": None,
    }
    layers = [
        {"mark": {"type": "rect", "stroke": colour("line")},
         "encoding": {"x": of_x, "y": of_y, "tooltip": tooltip, "fillOpacity": strength,
                      "fill": {"field": "sign", "type": "nominal", "scale": palette, "legend": None}}},
        {"mark": {"type": "text", "color": colour("ink")},
         "encoding": {"x": of_x, "y": of_y, "text": {"field": "share", "type": "quantitative", "format": ".0%"},
                      "tooltip": tooltip}},
    ]  # fmt: skip
    body = [[row, column, told(share, True), gap] for (row, column, share, _), gap in zip(cells, gaps, strict=True)]
    table = ([y, x, "share", "difference"], body)
    return figure(title, {"layer": layers}, columns, table, names={"row": downs, "column": acrosses},
                  height=STEP * len(downs))  # fmt: skip
