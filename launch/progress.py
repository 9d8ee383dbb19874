"""Progress in the terminal: bars with rate and time left; plain lines, few, where nobody watches."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

QUIET_SECONDS = 30.0  # between two plain lines where the output is no terminal


class Rate(ProgressColumn):
    """Units a second, over the last seconds."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.1f}/s", "cyan")


class Bar:
    """Tells how far a stage has come."""

    def __init__(self, label: str, console: Console, progress: Progress | None) -> None:
        self.label, self.console, self.progress = label, console, progress
        self.done, self.total, self.note = 0, 0, ""
        self.spoken = time.monotonic()
        self.task = progress.add_task(label, total=None, note="") if progress else None

    def set(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` units are finished; ``note`` is shown behind the bar."""
        self.done, self.total, self.note = done, total, note or self.note
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, total=total or None, note=self.note)
        elif time.monotonic() - self.spoken >= QUIET_SECONDS:
            self.spoken = time.monotonic()
            self.console.print(f"  {self.label}: {done:,} of {total:,} {self.note}".rstrip(), highlight=False)

    def advance(self, units: int = 1) -> None:
        self.set(self.done + units, self.total)


@contextmanager
def bar(label: str, console: Console) -> Iterator[Bar]:
    """A bar that vanishes when the body ends."""
    if not console.is_terminal:
        yield Bar(label, console, None)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(label, console, progress)
