"""What the sections of the report's page are made of: tables, names of arms, what differs between them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tracestill.data_pipeline.guards.visible import in_html
from tracestill.launch.report.plots.figure import SERIES, keys

Found = dict[str, Any]


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Heads and cells are HTML; a cell that begins with ``*`` is the best of its row."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        "<tr>"
        + "".join(f'<td class="best">{c[1:]}</td>' if c.startswith("*") else f"<td>{c}</td>" for c in row)
        + "</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def text(cell: str, *, left: bool = False) -> str:
    """A cell of a table, HTML, that may break into several lines; ``left``: a head that stands at the left."""
    return f'<div class="text{" left" if left else ""}">{cell}</div>'


def colour_of(found: Found, name: str) -> str:
    """The CSS class of an arm's colour, the same in all plots; models that are no arms are grey."""
    arms = list(found["arms"])
    return SERIES[arms.index(name) % len(SERIES)] if name in arms else SERIES[-1]


def by_arm(found: Found, key: str, part: Callable[[Found, Any], str]) -> str:
    """``part(row, held)`` of each arm that has something at ``key``, in HTML: once for what several arms share, under
    the arm's name where there are several. Empty where none has."""
    parts: list[tuple[str, str]] = []
    seen: list[Any] = []
    for arm, row in found["arms"].items():
        held = row.get(key)
        if held and held not in seen:
            seen.append(held)
            parts.append((arm, part(row, held)))
    return "".join(f"<h3>{in_html(arm)}</h3>{body}" if parts[1:] else body for arm, body in parts)


def alike(found: Found, arms: Sequence[str], *keys: str) -> list[list[str]]:
    """The arms in groups that agree in these parts of what the report says of them."""
    groups: list[tuple[list[Any], list[str]]] = []
    for arm in arms:
        held = [found["arms"][arm][key] for key in keys]
        for own, members in groups:
            if own == held:
                members.append(arm)
                break
        else:
            groups.append((held, [arm]))
    return [members for _, members in groups]


def legend(found: Found, arms: Sequence[str]) -> str:
    """The arms' colours, for the plots that stand together."""
    return keys({arm: colour_of(found, arm) for arm in arms})


def differences(overrides: Found, prefix: str = "") -> str:
    """An arm's overrides of the recipe, such as ``encode.trace: drop``, as HTML."""
    parts = []
    for key, value in overrides.items():
        name = f"{prefix}{key}"
        parts.append(
            differences(value, f"{name}.") if isinstance(value, dict) else f"<code>{in_html(f'{name}: {value}')}</code>"
        )
    return ", ".join(parts)


def steps_of(train: Found | None) -> str:
    return f"{train['steps']:,}" if train else ""


def seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.1f} s" if value < 100 else f"{value / 60:.1f} min"


def between(interval: Sequence[float] | None, sign: str = "") -> str:
    """An interval of shares in words; ``sign``: ``+`` for differences. Empty if there is none."""
    return "" if interval is None else f"{interval[0]:{sign}.1%} to {interval[1]:{sign}.1%}"


def chance(p: float | None) -> str:
    """A p in two figures, a small one as a bound; empty if there is none."""
    return "" if p is None else f"{p:.2g}" if p >= 1e-4 else "<1e-4"


def listed(what: str, counts: Mapping[str, int]) -> str:
    """``; rejected: wrong answer 12, same path 3``, the most frequent first; empty if there is nothing."""
    found = [
        f"{name.replace('_', ' ')} {count:,}" for name, count in sorted(counts.items(), key=lambda r: -r[1]) if count
    ]
    return f"; {what}: {', '.join(found)}" if found else ""
