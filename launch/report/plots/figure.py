"""A figure of a page: what is drawn, as a Vega-Lite specification with its data, and the same numbers as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html, visible

SERIES = ("s0", "s1", "s2", "s3", "s4", "s5")  # CSS variables, and classes, that hold the colours of arms
ROWS = 12  # of a table below a figure; of more, as many at even distances
FIGURE = '<figure class="drawn">'  # begins every one
Spec = dict[str, Any]


def figure(
    title: str,
    spec: Spec,
    columns: Mapping[str, Sequence[Any]],  # the data: name of a field -> its value in each row
    table: tuple[Sequence[str], Sequence[Sequence[str]]],  # heads and rows, as text
    *,
    names: Mapping[str, Sequence[str]] | None = None,  # fields whose values are places in a list of texts
    height: float = 150,  # of the plot, in pixels
    follow: Spec | None = None,  # formats of lines whose numbers follow the pointer, see plots.js
) -> str:
    """HTML. ``plots.js`` draws it; without scripts the table alone is there. All texts are escaped."""
    known = {field: [visible(name) for name in texts] for field, texts in (names or {}).items()}
    data = {"spec": {"height": height, "data": {"name": "rows"}, **spec}, "columns": columns, "names": known}
    if follow:
        data["follow"] = follow
    label = in_html(title)
    return (
        f'{FIGURE}<figcaption>{label}</figcaption><div class="plot" role="img" style="min-height:{height + 40:g}px" '
        f'aria-label="{label}: the numbers stand in the table below"></div>{json_script(data)}'
        f'<details class="numbers"><summary>Numbers<span class="unseen"> of {label}</span></summary>'
        f"{plain_table(*table)}</details></figure>"
    )


def json_script(data: Any) -> str:
    """Data for a script, as an element of the page. No text in it can end the element or begin another one."""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json">{text}</script>'


def plain_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Heads and cells are texts."""
    top = "".join(f'<th scope="col">{in_html(head)}</th>' for head in heads)
    body = "".join("<tr>" + "".join(f"<td>{in_html(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def keys(colours: Mapping[str, str]) -> str:
    """The legend: name -> CSS class of its colour."""
    shown = "".join(
        f'<span class="key"><i class="{colour}"></i>{in_html(name)}</span>' for name, colour in colours.items()
    )
    return f'<div class="legend">{shown}</div>'


def colour(name: str) -> str:
    """A colour as the drawing has it: it follows the page's theme."""
    return f"var(--{name})"


def apart(names: Sequence[str]) -> list[str]:
    """The names, a number behind those that were there before: two rows of a plot are never one."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return found


def short(value: float | None) -> float | None:
    """Five figures, which a plot cannot show, so that the page is no longer than it needs to be; None if not finite."""
    return float(f"{value:.5g}") if value is not None and math.isfinite(value) else None


def told(value: float | None, percent: bool = False) -> str:
    """A number of a table."""
    if value is None or not math.isfinite(value):
        return ""
    if percent:
        return f"{value:.1%}"
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.4g}"
