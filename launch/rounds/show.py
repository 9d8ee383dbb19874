"""The table of rounds, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.rounds.verdict import interval
from tracestill.launch.report.rounds_page import COLUMNS, cells


def show(root: Path, result: Mapping[str, Any], console: Console) -> None:
    table = Table(box=None, header_style="dim")
    for at, (head, _) in enumerate(COLUMNS):
        table.add_column(head, justify="left" if at < 2 else "right", overflow="fold")
    for row in result["rounds"]:
        best = row["round"] == result["best"]
        table.add_row(*(visible(cell) for cell in cells(row)), style="bold" if best else "")
    console.print(table)
    for text in ending(root, result):
        console.print(Text(visible(text)), soft_wrap=True, highlight=False)


def ending(root: Path, result: Mapping[str, Any]) -> list[str]:
    """What came of it, in lines."""
    lines = []
    if (stopped := result["stopped"]) is not None:
        lines.append(f"stopped after round {stopped['round']} ({stopped['rule']}): {stopped['why']}")
    if result["best"] is not None:
        best = next(row for row in result["rounds"] if row["round"] == result["best"])
        told = f"{best['accuracy']:.1%} ({interval(best)}) of {best['questions']:,} {best['split']} questions"
        lines.append(f"best: round {best['round']}, {told}: {root / result['student']}")
        if best["split"] == "test" and len(result["rounds"]) > 1:
            lines.append("chosen by test questions, so its accuracy is too good; set questions.validation")
    return lines
