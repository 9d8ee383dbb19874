"""Curves: over steps, samples, budgets, rounds; with bands where an interval is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.launch.report.plots.figure import ROWS, SERIES, Spec, colour, figure, short, told

Point = tuple[Any, ...]  # x, y (None: unknown), and where an interval is known its ends
DOTTED = 30  # points of a curve at most where each is shown
FLOOR = 1e-4  # of the highest: what is lower lies at the foot of a logarithmic axis


def lines(
    series: Mapping[str, Sequence[Point]],  # name -> points in the order of x
    dashed: Mapping[str, Sequence[Point]] | None = None,  # the same names, drawn dashed
    *,
    title: str,
    x: str = "step",
    y: str = "",
    log: bool = True,
    percent: bool = False,
    square: bool = False,
    colours: Sequence[str] = SERIES,
) -> str:
    """A line chart; ``x`` and ``y`` say what the axes show, in which unit. Empty if there is nothing to draw.

    A series keeps its colour, a CSS variable of ``colours``, by its place even if it is empty. ``percent``: y are
    shares. ``square``: both axes are shares, with the diagonal on which they are equal.
    """
    names = list(series)
    both = (
        (names.index(name), dash, points)
        for dash, of in enumerate((series, dashed or {}))
        for name, points in of.items()
    )
    kept = [(at, dash, [p for p in points if drawable(p, log)]) for at, dash, points in both]
    rows = [(at, dash, point) for at, dash, points in kept for point in points]
    if not rows:
        return ""
    columns: dict[str, list[Any]] = {
        "s": [at for at, _, _ in rows],
        "x": [short(point[0]) for _, _, point in rows],
        "y": [short(point[1]) for _, _, point in rows],
    }
    if any(dash for _, dash, _ in rows):
        columns["d"] = [dash for _, dash, _ in rows]
    if any(len(point) > 2 for _, _, point in rows):
        for field, place in (("low", 2), ("high", 3)):
            columns[field] = [short(point[place]) if len(point) > place else None for _, _, point in rows]
    counts = [len(points) for _, _, points in kept if points]
    dots = max(counts) <= DOTTED or min(counts) < 2
    spec = drawing(names, columns, colours, x=x, y=y, log=log, percent=percent, square=square, dots=dots)
    follow = {"x": x, "percent": percent, "square": square, "dashed": "d" in columns}
    return figure(title, spec, columns, numbers(names, kept, x, percent, square), names={"s": names}, follow=follow)


def drawable(point: Point, log: bool) -> bool:
    x, y = point[:2]
    return y is not None and math.isfinite(x) and math.isfinite(y) and (y > 0 or not log)


def drawing(
    names: Sequence[str], columns: Mapping[str, Sequence[Any]], colours: Sequence[str], *, x: str, y: str, log: bool,
    percent: bool, square: bool, dots: bool,
) -> Spec:  # fmt: skip
    """The layers: bands, curves, and the diagonal of a square."""
    ys = [value for field in ("y", "low", "high") for value in columns.get(field, ()) if value is not None]
    low, high = min(ys), max(ys)
    scale: Spec
    if log:
        high = max(columns["y"])
        low = max(min(columns["y"]), high * FLOOR)
        scale = {"type": "log", "domain": [low / 1.15, high * 1.15], "nice": False, "clamp": True}
    elif square or (percent and high > 0.5):
        scale = {"domain": [0, 1]}
    else:
        scale = {"domain": [min(0.0, low), high if high > min(0.0, low) else low + 1], "nice": True}
    top = max(columns["x"])
    across = {"domain": [0, 1]} if square else {"domain": [0, top if top > 0 else 1], "nice": False}
    flat: Spec = {"format": "%"} if square else {}
    down: Spec = {"format": "%"} if percent else {}
    if log:
        down = {"format": "~g"} | ({"values": marks} if (marks := logarithmic(*scale["domain"])) else {})
    if all(float(value).is_integer() for value in columns["x"]):
        flat["tickMinStep"] = 1
    palette = {"domain": list(names), "range": [colour(colours[at % len(colours)]) for at in range(len(names))]}
    of_x = {
        "field": "x",
        "type": "quantitative",
        "scale": across,
        "title": x,
        "axis": {**flat, "grid": False},
    }
    of_y = {"field": "y", "type": "quantitative", "scale": scale, "title": y, "axis": down}
    of_s = {"field": "s", "type": "nominal", "scale": palette, "legend": None}
    layers: list[Spec] = []
    if square:
        ideal = [{"x": 0, "y": 0}, {"x": 1, "y": 1}]
        rule = {"type": "line", "color": colour("soft"), "strokeDash": [5, 4], "strokeWidth": 1}
        layers.append({"data": {"values": ideal}, "mark": rule, "encoding": {"x": of_x, "y": of_y}})
    if "low" in columns:
        ends = {"x": of_x, "y": {**of_y, "field": "low"}, "y2": {"field": "high"}, "color": of_s}
        layers.append({"transform": [{"filter": {"field": "low", "valid": True}}],
                       "mark": {"type": "area", "opacity": 0.16}, "encoding": ends})  # fmt: skip
    encoding: Spec = {"x": of_x, "y": of_y, "color": of_s}
    if "d" in columns:
        dash = {"domain": [0, 1], "range": [[1, 0], [5, 4]]}
        encoding["strokeDash"] = {"field": "d", "type": "nominal", "scale": dash, "legend": None}
    mark = {"type": "line", "strokeWidth": 1.8, "strokeJoin": "round", "clip": not dots}
    layers.append({"mark": {**mark, "point": {"size": 22, "filled": True}} if dots else mark, "encoding": encoding})
    return {"layer": layers}


def logarithmic(low: float, high: float) -> list[float]:
    """Round numbers from low to high for an axis: powers of ten, with 3 or with 2 and 5 between them where they are
    few; none of a narrow range, for which the library chooses."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [
            float(f"{factor * 10.0**k:g}") for k in powers for factor in factors if low <= factor * 10.0**k <= high
        ]
        if len(found) >= 3:
            return found
    return []


def numbers(
    names: Sequence[str], kept: Sequence[tuple[int, int, Sequence[Point]]], x: str, percent: bool, square: bool
) -> tuple[list[str], list[list[str]]]:
    """A row for each x, a column for each curve; of many x those at even distances, the last one among them."""
    curves = [(at, dash, {point[0]: point for point in points}) for at, dash, points in kept if points]
    every = sorted({value for _, _, points in curves for value in points})
    stride = 1 if square else max(1, -(-len(every) // ROWS))  # in a square each curve has an x of its own
    shown = every[::-1][::stride][::-1]
    heads = [x, *(f"{names[at]}, dashed" if dash else names[at] for at, dash, _ in curves)]
    rows = [[told(value, square), *(cell(points.get(value), percent) for _, _, points in curves)] for value in shown]
    return heads, rows


def cell(point: Point | None, percent: bool) -> str:
    if point is None:
        return ""
    if len(point) < 4:
        return told(point[1], percent)
    return f"{told(point[1], percent)} ({told(point[2], percent)} to {told(point[3], percent)})"
