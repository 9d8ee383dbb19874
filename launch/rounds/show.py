"""The table of rounds, and how they ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracestill.data_pipeline.guards.visible import visible
from tracestill.data_pipeline.rounds.verdict import interval
from tracestill.launch.report.rounds_page import COLUMNS, followed, told_apart

TABLES = {
    "rounds": (
        "round",
        "teacher",
        "traces",
        "right",
        "kept",
        "solved",
        "new by teachers",
        "time writing",
        "accuracy (95 %)",
    ),
    "their traces": (
        *("round", "paths a question", "differ (round 0)", "entropy", "self-BLEU"),
        *("words", "tokens a text"),
    ),
    "ways of round 0 in them": ("round", "rare seen (chance)", "rare tried (chance)", "ways gone"),
    "their students": (
        *("round", "accuracy (95 %)", "other forms (95 %)", "other tasks (95 %)"),
        *("ECE of votes (95 %)", "samples differ (95 %)", "same questions (round 0)"),
    ),
}  # in several, so that they fit a terminal
PLAIN = {"round", "accuracy (95 %)"}  # no table of these alone behind the first


def show(root: Path, result: Mapping[str, Any], console: Console) -> None:
    cell_of, rows = dict(COLUMNS), told_apart(result["rounds"])
    for title, every in TABLES.items():
        heads = [head for head in every if any(map(cell_of[head], rows))]
        if set(heads) <= PLAIN:
            continue
        table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for head in heads:
            side: Literal["left", "right"] = "left" if head == "teacher" else "right"
            table.add_column(head, justify=side, overflow="fold", min_width=longest(head))
        for row in rows:
            if not any(cell_of[head](row) for head in heads if head != "round"):
                continue  # first texts have no student
            style = "bold" if row["round"] == result["best"] and "trained" in row else ""
            table.add_row(*(visible(cell_of[head](row)) for head in heads), style=style)
        console.print(table)
    for text in ending(root, result):
        console.print(Text(visible(text)), soft_wrap=True, highlight=False)


def longest(head: str) -> int:
    """Characters of the longest word of a head: it is not cut."""
    return max(map(len, head.split()))


def told_of(written: Mapping[str, Any]) -> str:
    """What a student has written, by the counts of its traces."""
    rejected = "".join(f", {reason.replace('_', ' ')} {count:,}" for reason, count in written["rejected"].items())
    return (
        f"{written['out']:,} of {written['in']:,} traces, {written['right']:,} of them right, "
        f"{written['accepted']:,} as select.policy asks, "
        f"{written['solved']:,} of {written['questions']:,} questions solved{rejected}"
    )


def ending(root: Path, result: Mapping[str, Any]) -> list[str]:
    """What came of it, in lines."""
    lines = [f"later rounds follow {whom}"] if (whom := followed(result)) else []
    if (stopped := result["stopped"]) is not None:
        lines.append(f"stopped after round {stopped['round']} ({stopped['rule']}): {stopped['why']}")
    if result["best"] is not None:
        best = next(row for row in result["rounds"] if row["round"] == result["best"])
        told = f"{best['accuracy']:.1%} ({interval(best)}) of {best['questions']:,} {best['split']} questions"
        lines.append(f"best: round {best['round']}, {told}: {root / result['student']}")
        if best["split"] == "test" and len(result["rounds"]) > 1:
            lines.append("chosen by test questions, so its accuracy is too good; set questions.validation")
    return lines
