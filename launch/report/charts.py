"""Charts as inline SVG, drawn by hand: text stays text, and colours follow the page's light or dark theme."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tracestill.data_pipeline.guards.visible import in_html

SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")  # CSS classes that hold the colours of arms


@dataclass(frozen=True)
class Frame:
    """The plot's area inside the picture, and the ranges that it shows."""

    width: float
    height: float
    x_max: float
    y_min: float
    y_max: float
    log: bool
    left: float = 46
    right: float = 12
    top: float = 12
    bottom: float = 30

    def x(self, value: float) -> float:
        return self.left + (self.width - self.left - self.right) * value / max(self.x_max, 1e-12)

    def y(self, value: float) -> float:
        low, high, at = self.y_min, self.y_max, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.y_min))
        share = (at - low) / max(high - low, 1e-12)
        return self.height - self.bottom - (self.height - self.top - self.bottom) * min(max(share, 0.0), 1.0)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],  # name -> (x, y) in the order of x
    dashed: Mapping[str, Sequence[tuple[float, float]]] | None = None,  # the same names, drawn dashed
    *,
    title: str,
    x_label: str = "step",
    width: float = 330,
    height: float = 200,
    log: bool = True,
    colours: Sequence[str] = SERIES,
) -> str:
    """A line chart; a series keeps its colour, a CSS class of ``colours``, by its place even if it is empty."""
    dashed = dashed or {}
    points = [point for values in (*series.values(), *dashed.values()) for point in values]
    if not points:
        return ""
    values = [y for _, y in points if y > 0] if log else [y for _, y in points]
    if not values:
        return ""
    high = max(values)
    low = max(min(values), high * 1e-4) if log else min(0.0, *values)
    if log:
        low, high = low / 1.15, high * 1.15
    frame = Frame(width, height, max(x for x, _ in points), low, high if high > low else low + 1, log)
    parts = [grid(frame, x_label)]
    for index, name in enumerate(series):
        colour, label = colours[index % len(colours)], in_html(name)
        for curve, style in ((series[name], ""), (dashed.get(name, ()), " dashed")):
            if curve:
                path = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in curve)
                parts.append(
                    f'<polyline class="line {colour}{style}" points="{path}"><title>{label}</title></polyline>'
                )
    return figure(title, "".join(parts), width, height)


def grid(frame: Frame, x_label: str) -> str:
    """Axes with ticks, labels and thin lines across."""
    parts = []
    for value in ticks_log(frame.y_min, frame.y_max) if frame.log else ticks(frame.y_min, frame.y_max, 4):
        y = frame.y(value)
        parts.append(
            f'<line class="grid" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(
            f'<text class="tick" x="{frame.left - 6}" y="{y + 3.5:.1f}" text-anchor="end">{number(value)}</text>'
        )
    base = frame.height - frame.bottom
    for value in ticks(0, frame.x_max, 4):
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{base}" y2="{base + 4}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{base + 15}" text-anchor="middle">{number(value)}</text>')
    parts.append(f'<line class="axis" x1="{frame.left}" x2="{frame.width - frame.right}" y1="{base}" y2="{base}"/>')
    end = frame.width - frame.right
    parts.append(f'<text class="tick" x="{end}" y="{frame.height - 3}" text-anchor="end">{in_html(x_label)}</text>')
    return "".join(parts)


def intervals(
    rows: Sequence[tuple[str, float, float, float]], *, colours: Sequence[str] = SERIES, width: float = 700
) -> str:
    """Bars from 0 to 100 % with their interval: (name, share, low, high) of each row; ``colours`` are CSS classes."""
    left, right, step, bar = 170.0, 120.0, 46.0, 20.0
    span = width - left - right
    height = step * len(rows) + 26
    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x = left + span * share
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 20}"/>')
        parts.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{share:.0%}</text>')
    for index, (name, share, low, high) in enumerate(rows):
        top = 8 + index * step
        middle = top + bar / 2
        colour = colours[index % len(colours)]
        parts.append(named(name, left - 10, middle + 4.5))
        parts.append(
            f'<rect class="bar {colour}" x="{left}" y="{top}" width="{span * share:.1f}" height="{bar}" rx="2"/>'
        )
        a, b = left + span * low, left + span * high
        parts.append(f'<line class="whisker" x1="{a:.1f}" x2="{b:.1f}" y1="{middle}" y2="{middle}"/>')
        for x in (a, b):
            parts.append(f'<line class="whisker" x1="{x:.1f}" x2="{x:.1f}" y1="{middle - 5}" y2="{middle + 5}"/>')
        parts.append(f'<text class="figure" x="{b + 10:.1f}" y="{middle + 6}">{share:.1%}</text>')
    return figure("", "".join(parts), width, height)


def stacked(
    rows: Sequence[tuple[str, Sequence[tuple[str, float, str]]]],  # (row, [(part, amount, CSS class)])
    *,
    width: float = 700,
    total: float | None = None,
) -> str:
    """Horizontal bars cut into parts, to one scale; the legend below names each part once."""
    left, right, step, bar = 170.0, 90.0, 34.0, 20.0
    longest = total or max((sum(amount for _, amount, _ in parts) for _, parts in rows), default=0.0)
    if longest <= 0:
        return ""
    scale = (width - left - right) / longest
    shapes = []
    legend: dict[str, str] = {}
    for index, (name, parts) in enumerate(rows):
        top, x = 6 + index * step, left
        shapes.append(named(name, left - 10, top + 14.5))
        for part, amount, colour in parts:
            if amount <= 0:
                continue
            legend.setdefault(part, colour)
            title, length = in_html(f"{part}: {amount:,.6g}"), max(amount * scale, 0.7)
            shapes.append(
                f'<rect class="bar {colour}" x="{x:.1f}" y="{top}" width="{length:.1f}" height="{bar}">'
                f"<title>{title}</title></rect>"
            )
            x += amount * scale
        whole = sum(amount for _, amount, _ in parts)
        shapes.append(f'<text class="figure small" x="{x + 8:.1f}" y="{top + 14.5}">{number(whole, exact=True)}</text>')
    keys = "".join(
        f'<span class="key"><i class="{colour}"></i>{in_html(part)}</span>' for part, colour in legend.items()
    )
    return figure("", "".join(shapes), width, step * len(rows) + 4) + f'<div class="legend">{keys}</div>'


def named(name: str, x: float, y: float, most: int = 22) -> str:
    """The name of a row, ending at x; a long one is cut short, and whole where the pointer rests."""
    short = name if len(name) <= most else f"{name[: most - 1]}…"
    title = f"<title>{in_html(name)}</title>"
    return f'<text class="label" x="{x:g}" y="{y:g}" text-anchor="end">{in_html(short)}{title}</text>'


def figure(title: str, body: str, width: float, height: float) -> str:
    caption = f"<figcaption>{in_html(title)}</figcaption>" if title else ""
    return (
        f'<figure>{caption}<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img" '
        f'aria-label="{in_html(title or "chart")}">{body}</svg></figure>'
    )


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from low to high, about ``wanted`` steps apart."""
    if high <= low:
        return [low]
    raw = (high - low) / wanted
    power = 10 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= raw)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def ticks_log(low: float, high: float) -> list[float]:
    """Powers of ten from low to high, with 3 or with 2 and 5 between them where they are few, or else round numbers."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1.0,), (1.0, 3.0), (1.0, 2.0, 5.0)):
        found = [factor * 10.0**k for k in powers for factor in factors if low <= factor * 10.0**k <= high]
        if len(found) >= 3:
            return found
    return ticks(low, high, 4)


def number(value: float, *, exact: bool = False) -> str:
    """A short figure: 12k, 0.003; or with all its thousands."""
    if exact:
        return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"
    if abs(value) >= 10_000:
        return f"{value / 1000:,.0f}k"
    return f"{value:,.4g}" if abs(value) >= 0.001 or value == 0 else f"{value:.0e}"
