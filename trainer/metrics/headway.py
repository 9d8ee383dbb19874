"""How far a training has come, told while it goes: many times in a step that takes minutes. Imports no torch.

Rank 0 writes ``progress.json`` into the train directory, at most once a second, between two micro-steps. Whoever
started the ranks reads it there: for a bar that moves, and to say what a stop would cost.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

PROGRESS = "progress.json"
WRITE_SECONDS = 1.0  # between two writes of the file, at least
SPEAK_SECONDS = 60.0  # between two lines on the console, if a step takes longer than that
WINDOW_SECONDS = 120.0  # over which a rate is taken
LEAST_POINTS = 5  # that a rate is taken from, however old


@dataclass(frozen=True)
class Headway:
    """Where a training is."""

    step: int  # optimizer steps done
    steps: int
    micro: int  # micro-steps done of the step under way
    accumulation: int  # micro-steps in a step
    tokens: int  # of the steps and micro-steps done, if all are of mean size
    total: int  # tokens of the whole training
    step_seconds: float | None  # that the last step took
    save_seconds: float | None  # that the last save took
    saved: int | None  # step of the newest checkpoint that this process made
    ranks: int | None = None  # that train

    @property
    def rest_of_step(self) -> float | None:
        """Seconds until the step under way ends, if it takes as long as the last; None if there was none."""
        return None if self.step_seconds is None else self.step_seconds * (1 - self.micro / self.accumulation)


class Estimate:
    """The time that is left, by how fast units came in the last ``window`` seconds; a first jump to where work goes on
    is no pace."""

    def __init__(self, clock: Callable[[], float] | None = None, window: float = WINDOW_SECONDS) -> None:
        self.clock, self.window = clock or time.monotonic, window
        self.points: deque[tuple[float, float]] = deque()  # when the count changed, and to what

    def add(self, done: float) -> None:
        now = self.clock()
        if self.points and done < self.points[-1][1]:
            self.points.clear()  # other work begins
        elif self.points and done == self.points[-1][1]:
            return
        self.points.append((now, done))
        while len(self.points) > LEAST_POINTS and now - self.points[0][0] > self.window:
            self.points.popleft()

    @property
    def rate(self) -> float | None:
        """Units a second; None before it can be known."""
        if len(self.points) < 2:
            return None
        (begun, first), (ended, last) = self.points[0], self.points[-1]
        return (last - first) / max(ended - begun, 1e-9)

    def left(self, total: float) -> float | None:
        """Seconds until ``total``; None before it can be known, and where they are over and it is not reached."""
        rate = self.rate
        if rate is None:
            return None
        ended, last = self.points[-1]
        if last >= total:
            return 0.0
        seconds = (total - last) / rate - (self.clock() - ended)
        return seconds if seconds > 0 else None


class Teller:
    """Writes PROGRESS for one training, and a line on the console now and then."""

    def __init__(
        self,
        path: Path,
        *,
        step: int,
        steps: int,
        accumulation: int,
        tokens_a_step: float,
        say: Callable[[str], None],
        write: bool = True,
        ranks: int | None = None,
    ) -> None:
        """``step`` of ``steps`` are done; ``say`` shows a line; nothing is written or said unless ``write``: on other
        ranks than 0."""
        self.path, self.say, self.write, self.ranks = path, say, write, ranks
        self.step, self.steps, self.micro, self.accumulation = step, steps, 0, accumulation
        self.tokens_a_step = tokens_a_step
        self.step_seconds: float | None = None
        self.save_seconds: float | None = None
        self.saved: int | None = None
        self.stops = ""
        self.estimate = Estimate()
        self.begun = self.spoken = time.monotonic()
        self.written = -WRITE_SECONDS
        self.tell()

    def end_micro(self, stops: str = "") -> None:
        """A micro-step has been done; ``stops``: why training stops after this step, said once."""
        self.micro += 1
        self.tell()
        if stops and not self.stops:
            self.say(f"{stops}: saves after this step and stops; {until_saved(self.headway())}")
        self.stops = self.stops or stops

    def end_step(self, *, save_seconds: float | None, saved: int | None) -> None:
        """A step has been done, with whatever came behind it."""
        now = time.monotonic()
        self.step_seconds, self.begun = now - self.begun, now
        self.step, self.micro = self.step + 1, 0
        self.save_seconds, self.saved = save_seconds, saved
        self.tell(now=self.step == self.steps)

    def spoke(self) -> None:
        """The console has just told as much."""
        self.spoken = time.monotonic()

    def headway(self) -> Headway:
        done = self.step + self.micro / self.accumulation
        return Headway(
            self.step,
            self.steps,
            self.micro,
            self.accumulation,
            tokens=round(done * self.tokens_a_step),
            total=round(self.steps * self.tokens_a_step),
            step_seconds=self.step_seconds,
            save_seconds=self.save_seconds,
            saved=self.saved,
            ranks=self.ranks,
        )

    def tell(self, *, now: bool = False) -> None:
        if not self.write:
            return
        found = self.headway()
        self.estimate.add(found.tokens)
        clock = time.monotonic()
        if now or clock - self.written >= WRITE_SECONDS:
            self.written = clock
            draft = self.path.with_name(f".{self.path.name}.tmp")
            with contextlib.suppress(OSError):  # a full disk is for the log and the checkpoints to tell of
                draft.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
                draft.replace(self.path)
        if clock - self.spoken >= SPEAK_SECONDS:
            self.spoken = clock
            left = self.estimate.left(found.total)
            self.say(
                f"step {found.step}/{found.steps}, micro-step {found.micro}/{found.accumulation} of the next; "
                f"{found.tokens:,} of {found.total:,} tokens" + ("" if left is None else f", {spell(left)} left")
            )


def read_headway(directory: Path) -> Headway | None:
    """What a train directory's ranks told last; None if they told nothing yet."""
    try:
        return Headway(**json.loads((directory / PROGRESS).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def until_saved(headway: Headway) -> str:
    """What it takes until the step under way is saved, by the last step and the last save."""
    rest, save = headway.rest_of_step, headway.save_seconds
    step = "how long the first step takes is not known" if rest is None else f"about {spell(rest)} of the step are left"
    return f"{step}, {'no save was timed yet' if save is None else f'the last save took {spell(save)}'}"


def spell(seconds: float) -> str:
    """A duration for people: 45s, 3m 20s, 2h 05m, 3d 04h."""
    whole = round(seconds)
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days}d {hours % 24:02d}h"
    if hours:
        return f"{hours}h {minutes % 60:02d}m"
    return f"{minutes}m {whole % 60:02d}s" if minutes else f"{whole}s"
