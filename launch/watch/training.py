"""The training of one arm, as its directory tells it: the log, how far the ranks are, and how they ended."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tracestill.data_pipeline.base.stage import MANIFEST
from tracestill.launch.run.now import now_beside
from tracestill.launch.watch.follow import Grown, Kept, Mark, mark_of
from tracestill.launch.watch.owner import Pulse
from tracestill.trainer.faults.failure import FAILURE
from tracestill.trainer.faults.stopping import MARKER
from tracestill.trainer.lock.run_lock import Owner
from tracestill.trainer.metrics.headway import PROGRESS, Estimate, spell
from tracestill.trainer.metrics.log import LOG, Line, is_of_steps
from tracestill.trainer.metrics.refreshing import REFRESHING
from tracestill.trainer.recipe.recipe import MAIN_ARM

State = Literal["waits", "starts", "trains", "stopped", "failed", "cut off", "done"]
CURVE = 400  # losses kept of a log
HEADWAY = {"step", "steps", "tokens", "total"}  # what is read of it
QUIET = 30.0  # seconds without a sign of the ranks, of which one at least is told
PATIENCE = 3  # times what a step and a save took last


@dataclass(frozen=True)
class Training:
    """What is known of one arm's training; of what is not there yet, None."""

    state: State
    why: str = ""  # it stopped, failed or was cut off
    step: int | None = None
    steps: int | None = None
    ranks: int | None = None
    left: float | None = None  # seconds
    line: Line | None = None  # the newest numbers, as docs/telemetry.md has them
    losses: tuple[float, ...] = ()  # of the last lines
    held_out: Line | None = None  # the newest measurement
    answers: Line | None = None
    own_texts: Line | None = None  # the newest refresh, of a student that learns from texts of its own
    refreshing: Line | None = None  # and the one that is being made
    warnings: tuple[str, ...] = ()


class Follow:
    """Follows the training in one directory."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.directory, self.clock = directory, clock
        self.log = Grown(directory / LOG)
        self.manifest, self.headway = Kept(directory / MANIFEST), Kept(directory / PROGRESS)
        self.refreshing = Kept(directory / REFRESHING)
        self.failure, self.stopped = Kept(directory / FAILURE), Kept(directory / MARKER)
        self.now = Kept(now_beside(directory))
        self.estimate = Estimate(clock)
        self.signs: tuple[Mark | None, ...] = ()  # of life: marks of what the ranks write
        self.since = 0.0  # when they changed
        self.forget()

    def forget(self) -> None:
        self.line: Line | None = None
        self.held_out: Line | None = None
        self.answers: Line | None = None
        self.own_texts: Line | None = None
        self.straggler: Line | None = None
        self.skipped: list[Line] = []
        self.doubts: list[str] = []
        self.losses: deque[float] = deque(maxlen=CURVE)

    def look(self, pulse: Pulse) -> Training:
        """How it is now; ``pulse``: of whoever holds the run."""
        lines, anew = self.log.new()
        if anew:
            self.forget()
        for line in lines:
            self.hear(line)
        signs = tuple(mark_of(each.path) for each in (self.log, self.headway, self.refreshing))
        if signs != self.signs:
            self.signs, self.since = signs, self.clock()
        at = self.headway.look() or {}
        at = at if at.keys() >= HEADWAY else {}
        if at:
            self.estimate.add(at["tokens"])
        manifest = self.manifest.look()
        state, why = self.state(pulse, manifest)
        step, steps = at.get("step"), at.get("steps")
        if manifest is not None:
            step = steps = manifest.get("counts", {}).get("steps", step)
        elif self.line is not None:
            step = max(step or 0, self.line["step"])  # the ranks tell of their steps now and then
        left = self.left(at) if state == "trains" else None
        return Training(
            state,
            why,
            step,
            steps,
            at.get("ranks"),
            left,
            self.line,
            losses=tuple(self.losses),
            held_out=self.held_out,
            answers=self.answers,
            own_texts=self.own_texts,
            refreshing=self.refreshing.look() if state in ("starts", "trains") else None,
            warnings=tuple(self.warnings(state, at)),
        )

    def hear(self, line: Line) -> None:
        if is_of_steps(line):
            self.line, self.straggler = line, None  # one that is slow is named again
            if line["loss"] is not None:
                self.losses.append(line["loss"])
            return
        event = line.get("event")
        if event == "held_out":
            self.held_out = line
        elif event == "answers":
            self.answers = line
        elif event == "refresh":
            self.own_texts = line
        elif event == "straggler":
            self.straggler = line
        elif event == "skipped":
            self.skipped.append(line)
        elif event == "preview":
            self.doubts = [str(text) for text in line.get("warnings", ())]

    def state(self, pulse: Pulse, manifest: Line | None) -> tuple[State, str]:
        """What it is at, and why it is not going on."""
        if manifest is not None:
            return "done", ""
        if pulse.at_work and self.is_worked_on(pulse.owner):
            return ("trains" if self.headway.look() is not None or self.line is not None else "starts"), ""
        if (stopped := self.stopped.look()) is not None:
            reason = f"({stopped.get('reason')})"
            if not stopped.get("step"):  # while a student wrote the first texts to learn from
                return "stopped", f"before its first step {reason}"
            return "stopped", f"after step {stopped['step']} {reason}, all of it saved"
        if (failed := self.failure.look()) is not None:
            seen = f"seen by rank {failed.get('by')} on {failed.get('host')}"
            return "failed", f"rank {failed.get('rank')} {failed.get('reason')} ({seen})"
        if self.line is None and self.headway.look() is None and self.now.look() is None:
            return "waits", ""
        gone = {"dead": "the process that trained is gone", "silent": "whoever trained gives no sign of life"}
        return "cut off", gone.get(pulse.word, "it has not finished, and nobody is at work on it")

    def is_worked_on(self, owner: Owner | None) -> bool:
        """Whether the run's owner is the command that trains here, or the first of ranks that were started by hand."""
        now = self.now.look()
        if now is not None and (owner is None or now.get("token") == owner.token):
            return True
        words = owner.command.split() if owner is not None else []
        return words[:1] == ["train.py"] and arm_in(words) == self.directory.parent.name

    def left(self, at: dict[str, Any]) -> float | None:
        """Seconds until the last step: by how fast tokens came while we looked, else as in the log's last line."""
        if not at:
            return None
        seconds = self.estimate.left(at["total"])
        if seconds is None and self.line is not None and self.line.get("tokens_per_second"):
            seconds = max(0.0, at["total"] - at["tokens"]) / self.line["tokens_per_second"]
        return seconds

    def warnings(self, state: State, at: dict[str, Any]) -> list[str]:
        found = list(self.doubts)
        if self.skipped:
            last = self.skipped[-1]
            found.append(f"{len(self.skipped)} step(s) skipped, the last at {last['step']}: {last.get('reason')}")
        if state == "trains":
            found += self.late(at)
        return found

    def late(self, at: dict[str, Any]) -> list[str]:
        """Who holds the others up, and for how long nothing has been heard of the ranks at all."""
        found = []
        if (slow := self.straggler) is not None:
            found.append(
                f"rank {slow['rank']} is slow: {slow['seconds']} s in phase {slow['phase']}, others {slow['usual']} s"
            )
        line = self.line or {}
        if line.get("data_wait", 0.0) > 0.05 * line.get("seconds", 0.0) > 0:
            found.append(f"waits for data {line['data_wait'] / line['seconds']:.0%} of the time")
        usual = (at.get("step_seconds") or 0.0) + (at.get("save_seconds") or 0.0)
        quiet = self.clock() - self.since
        if quiet > max(QUIET, PATIENCE * usual):
            took = f"; the last step took {spell(usual)}" if usual else ""
            found.append(f"nothing was heard of the ranks for {spell(quiet)}{took}")
        return found


def arm_in(words: Sequence[str]) -> str:
    """The arm that a command trains: ``--arm NAME`` or ``--arm=NAME``, the last one counts; without, the main one."""
    found = MAIN_ARM
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word == "--arm":
            found = following
        elif word.startswith("--arm="):
            found = word.removeprefix("--arm=")
    return found
