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
    for heading in headings if measured else headings[:-1]:
        add_column(table, heading)
    for row in found["kinds"]:
        numbers = (f"{row['weight']:g}", f"{row['tokens']:,}", f"{row['weight_sum']:,.1f}")
        shares = [f"{row[name]:.1%}" for name in SHARES if row.get(name) is not None]
        table.add_row(Text(row["kind"], styles[row["kind"]]), *numbers, *shares)
    return table


def add_column(table: Table, heading: str) -> None:
    """One of numbers, or of the kinds' names, which stay whole while headings wrap."""
    if heading == "kind":
        table.add_column(heading, no_wrap=True)
    else:
        table.add_column(heading, justify="right")


def teacher_table(found: dict[str, Any], styles: dict[str, str]) -> Table | None:
    """Of the preview's rows what is of the teacher's term; None: there is none."""
    if not any("teacher_share" in row for row in found["kinds"]):
        return None
    table = Table(title="What the teacher adds to it", title_justify="left")
    for heading in ("kind", *TEACHER.values()):
        add_column(table, heading)
    for row in found["kinds"]:
        table.add_row(Text(row["kind"], styles[row["kind"]]), *teacher_cells(row))
    return table


def show_tables(found: dict[str, Any], styles: dict[str, str], console: Console) -> None:
    """Print the preview's rows by kind."""
    for table in (kinds_table(found, styles), teacher_table(found, styles)):
        if table is not None:
            console.print(table)


def show_notes(found: dict[str, Any], console: Console) -> None:
    """What stored channels did to the weights of the whole store, and warnings."""
    for line in found.get("effects", ()):
        console.print(Text(visible(line)), soft_wrap=True)
    for line in found.get("warnings", ()):  # none in a run of an older version
        console.print(Text(visible(f"warning: {line}"), "bold yellow"), soft_wrap=True)
