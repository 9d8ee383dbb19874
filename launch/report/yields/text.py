"""The yield report in a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from tracestill.launch.report.parts import Found
from tracestill.launch.report.yields.tables import head, tables

LEAST = 12  # characters of a column of names, where it has so many


def show(found: Found, console: Console) -> None:
    """Each table of ``tables`` with its sentences, then what to keep in mind."""
    console.print(head(found), soft_wrap=True)
    for shown in tables(found):
        console.print()
        if shown.rows:
            table = Table(title=shown.title, title_justify="left", box=SIMPLE_HEAD)
            for at, heading in enumerate(shown.heads):
                text, longest = at < shown.texts, max(len(row[at]) for row in (shown.heads, *shown.rows))
                table.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=not text,
                                 min_width=min(longest, LEAST))  # fmt: skip
            for row in shown.rows:
                table.add_row(*row)
            console.print(table)
        for note in shown.notes:
            console.print(note, style="dim", soft_wrap=True)
        if shown.warning:
            console.print(f"warning: {shown.warning}", style="bold yellow", soft_wrap=True)
    for note in found["notes"]:
        console.print(f"note: {note}", soft_wrap=True)
