"""What this rank does now, said once and heard by all who want to know: watchdog, stopwatch, finder of stragglers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

Phase = Literal["start", "load", "data", "forward", "backward", "communication", "log", "measure", "save", "finish"]
Listener = Callable[[Phase, int], None]
PHASES: tuple[Phase, ...] = get_args(Phase)


class Phases:
    """The phases of one training; each listener hears of every one that begins, in the order of subscription."""

    def __init__(self) -> None:
        self.listeners: list[Listener] = []

    def subscribe(self, listener: Listener) -> None:
        """From now on ``listener(phase, steps done)`` is called as a phase begins, on this rank's training thread."""
        self.listeners.append(listener)

    def enter(self, phase: Phase, step: int) -> None:
        """This rank enters a phase, after ``step`` optimizer steps."""
        for listener in self.listeners:
            listener(phase, step)
