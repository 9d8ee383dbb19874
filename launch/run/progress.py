"""Progress in the terminal: bars with rate and time left; plain lines, few, where nobody watches."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TimeElapsedColumn
from rich.text import Text

from tracestill.data_pipeline.guards.visible import visible
from tracestill.launch.run.now import Now, Telling
from tracestill.trainer.metrics.headway import Estimate, spell
from tracestill.trainer.ranks.console import plain_column

WIDTH = 24  # of the column that names stage and arm
QUIET_SECONDS = 30.0  # between two plain lines where the output is no terminal


class Bar:
    """Tells how far a stage has come."""

    def __init__(
        self,
        label: str,
        console: Console,
        progress: Progress | None,
        unit: str,
        telling: Telling | None = None,
        estimate: Estimate | None = None,
    ) -> None:
        self.label, self.console, self.progress, self.unit = label, console, progress, unit
        self.done, self.total, self.note = 0.0, 0.0, ""
        self.estimate = estimate or Estimate()
        self.started = time.monotonic()
        self.telling = telling or Telling(None)
        self.tell()
        self.task = progress.add_task(label, total=None, bar=self, note="") if progress else None

    def set(self, done: float, total: float, note: str = "", begun: float = 0.0) -> None:
        """``done`` of ``total`` units are finished (0: unknown); ``note`` is shown behind the bar. ``begun``: what
        those under way come to, for the time left."""
        begins = bool(total) and not self.total
        self.done, self.total, self.note = done, total, note or self.note
        if total:
            self.estimate.add(done + begun)
        if self.progress is not None and self.task is not None:
            self.progress.update(self.task, completed=done, total=total or None, note=self.note)
        if begins or self.telling.is_due:
            self.tell()

    def tell(self) -> None:
        """Let those know who look at the run from elsewhere."""
        left = self.estimate.left(self.total) if self.total else None
        seconds = round(time.monotonic() - self.started, 1)
        now = Now(self.label, self.unit, self.done, self.total, self.note, seconds, self.estimate.rate, left)
        self.telling.tell(now)

    def speak(self) -> None:
        """Say in a line how far it is, also where nothing has changed."""
        count = f"{int(self.done):,} of {int(self.total):,} {self.unit}".rstrip() if self.total else ""
        parts = (count, f"{spell(time.monotonic() - self.started)} so far", self.left(), self.note)
        text = f"  {self.label}: {', '.join(part for part in parts if part)}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def left(self) -> str:
        """How long it takes until the end, or nothing."""
        seconds = self.estimate.left(self.total) if self.total else None
        return "" if seconds is None else f"{spell(seconds)} left"


class Count(ProgressColumn):
    """Units done and in all."""

    def render(self, task: Task) -> Text:
        bar: Bar = task.fields["bar"]
        return Text(f"{short(bar.done)}/{short(bar.total)} {bar.unit}".rstrip() if bar.total else "", "green")


class Rate(ProgressColumn):
    """Units a second, over the last minutes."""

    def render(self, task: Task) -> Text:
        rate = task.fields["bar"].estimate.rate
        return Text("" if rate is None else f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s", "cyan")


class Left(ProgressColumn):
    """The time left, which runs down between two changes."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["bar"].left(), "magenta")


@contextmanager
def bar(
    label: str, console: Console, unit: str = "", beside: Path | None = None, estimate: Estimate | None = None
) -> Iterator[Bar]:
    """A bar that vanishes when the body ends, or a line now and then; it counts in ``unit``. How far it is also stands
    beside the directory ``beside``, while the body lasts. ``estimate``: of the time left."""
    telling = Telling(beside)
    try:
        with shown(label, console, unit, telling, estimate) as made:
            yield made
    finally:
        telling.end()


@contextmanager
def shown(label: str, console: Console, unit: str, telling: Telling, estimate: Estimate | None = None) -> Iterator[Bar]:
    if not console.is_terminal:
        made, over = Bar(label, console, None, unit, telling, estimate), threading.Event()

        def speak() -> None:
            while not over.wait(QUIET_SECONDS):
                made.speak()

        thread = threading.Thread(target=speak, name="progress", daemon=True)
        thread.start()
        try:
            yield made
        finally:
            over.set()
            thread.join()
        return
    columns = (
        plain_column("  {task.description}"),
        BarColumn(bar_width=24),
        Count(),
        Rate(),
        TimeElapsedColumn(),
        Left(),
        plain_column("{task.fields[note]}", style="dim"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Bar(label, console, progress, unit, telling, estimate)


def short(number: float) -> str:
    """A count in a few characters: 250, 12.3k, 4.56M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e5, "k")):
        if number >= size:
            unit = 1e3 if letter == "k" else size
            return f"{number / unit:.4g}{letter}"
    return f"{int(number)}"


def line(label: str, text: str, style: str) -> Text:
    """One line about a piece of work."""
    return Text.assemble((f"{visible(label) + ' ':<{WIDTH}}", "bold"), (visible(text), style))
