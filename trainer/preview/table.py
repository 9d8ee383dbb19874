"""The preview's table by kind on a terminal, and the colours of the kinds. Imports no torch: `inspect` shows it too."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.guards.visible import visible
from tracestill.trainer.preview.page import SHARES, TEACHER, teacher_cells

# by id: pad, prompt, plan, derive, check, prose, answer, control; expression, result, statement; the user's own
STYLES = (
    *("bright_black", "white", "magenta", "blue", "cyan", "yellow", "bold red", "green"),
    *("bright_blue", "bold bright_blue", "blue italic", "bright_cyan", "bright_magenta"),
)


def kinds_table(found: dict[str, Any], styles: dict[str, str]) -> Table:
    """The preview's rows by kind; ``styles``: rich style of each kind."""
    table = Table(title="What the weighting does to the first step", title_justify="left")
    measured = any(row.get("gradient_share") is not None for row in found["kinds"])  # not in older runs
    headings = ("kind", "weight", "tokens", "sum of weights", *SHARES.values())
    more = TEACHER if any("teacher_share" in row for row in found["kinds"]) else {}
    for heading in (*(headings if measured else headings[:-1]), *more.values()):
        table.add_column(heading, justify="left" if heading == "kind" else "right")
    for row in found["kinds"]:
        numbers = (f"{row['weight']:g}", f"{row['tokens']:,}", f"{row['weight_sum']:,.1f}")
        shares = [f"{row[name]:.1%}" for name in SHARES if row.get(name) is not None]
        of_teacher = teacher_cells(row) if more else []
        table.add_row(Text(row["kind"], styles[row["kind"]]), *numbers, *shares, *of_teacher)
    return table


def show_warnings(found: dict[str, Any], console: Console) -> None:
    for line in found.get("warnings", ()):  # none in a run of an older version
        console.print(Text(visible(f"warning: {line}"), "bold yellow"), soft_wrap=True)
