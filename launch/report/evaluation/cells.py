"""What the sections about an evaluation share: whose numbers of a part there are, and shares as cells of tables."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from tracestill.launch.report.parts import Found

Row = Mapping[str, Any]


def measured(found: Found, part: str) -> dict[str, Any]:
    """Arm or model -> what a part of its evaluation found, of those that have it."""
    evaluated = {name: row["evaluation"] for name, row in (found["arms"] | found["models"]).items()}
    return {name: result[part] for name, result in evaluated.items() if result and result.get(part)}


def about(part: str) -> Callable[[Callable[[Found, dict[str, Any]], str]], Callable[[Found], str]]:
    """A section about a part: it gets what ``measured`` finds too, and is empty where that is nothing."""

    def decorate(section: Callable[[Found, dict[str, Any]], str]) -> Callable[[Found], str]:
        @functools.wraps(section)
        def told(found: Found) -> str:
            held = measured(found, part)
            return section(found, held) if held else ""

        return told

    return decorate


def percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"


def shared(row: Row | None) -> str:
    """A share with its interval below, as ``measures.spread`` gives it; empty where nothing was counted."""
    if row is None or row["share"] is None:
        return ""
    return f'{row["share"]:.1%}<div class="small">{row["low"]:.1%} to {row["high"]:.1%}</div>'


def banded(row: Row) -> tuple[float, ...]:
    """A share, and its interval where there is one: what follows x in a point of a curve."""
    low, high = row.get("low"), row.get("high")
    return (row["share"],) if low is None or high is None else (row["share"], low, high)


def number(value: float | None, places: int = 3) -> str:
    return "" if value is None else f"{value:.{places}f}"


def of(part: int, whole: int) -> str:
    """``43.0%``, of a count that may be nothing."""
    return percent(part / whole) if whole else ""
