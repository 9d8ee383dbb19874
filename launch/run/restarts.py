"""What became of an attempt to train, and whether another one is worth it."""

from __future__ import annotations

from pathlib import Path

from tracestill.data_pipeline.base.errors import EXIT_NO_ROOM, InputError, NoRoomError
from tracestill.launch.start.deepspeed_command import TrainingFailed
from tracestill.trainer.checkpoint.files import CHECKPOINTS, committed, complete, writers
from tracestill.trainer.faults import stopping
from tracestill.trainer.faults.failure import EXIT_FAILED, first_failure, read_failure

IDLE = 2  # attempts in a row that come no further than those before, after which there is no other


def explained(error: TrainingFailed | InputError, directory: Path, log: Path) -> TrainingFailed | InputError:
    """The error of an attempt in a train directory as its ranks tell it; ``error`` itself if they left no word.

    The launcher loses their exit codes in many cases, and the end of the output is often a consequence, not the cause.
    """
    alarm = read_failure(directory)
    if alarm is None:
        return error
    if alarm["code"] == EXIT_FAILED:
        return TrainingFailed(f"{first_failure(directory)}; the whole output is in {log}")
    text = str(error) if isinstance(error, InputError) else alarm["reason"].partition(": ")[2]
    return NoRoomError(text) if alarm["code"] == EXIT_NO_ROOM else InputError(text)


class Restarts:
    """Counts the attempts of one training after the first."""

    def __init__(self, directory: Path, allowed: int, *, begun: int) -> None:
        """``directory`` is the train directory; ``begun`` is the step from which the first attempt goes on."""
        self.directory, self.allowed = directory, allowed
        self.furthest, self.idle, self.made = begun, 0, 0

    def next(self, error: TrainingFailed) -> str:
        """Count a new attempt, and say what it follows and where it begins. Raises ``error``, adding why, if there is
        none: as many were made as allowed, a stop was requested meanwhile, or going on leads nowhere."""
        step = reached(self.directory)
        self.idle = 0 if step > self.furthest else self.idle + 1
        self.furthest = max(step, self.furthest)
        if not self.allowed or (self.directory / stopping.REQUEST).exists():
            raise error
        if self.idle >= IDLE:
            raise TrainingFailed(f"{error}\ngave up: {IDLE} attempts in a row came no further than step {step}")
        if self.made == self.allowed:
            raise TrainingFailed(f"{error}\ngave up after {self.made} restart(s) (--max-restarts)")
        self.made += 1
        told = str(error).splitlines()
        cause = next((line for line in told if line.startswith("failed: ")), told[0]).partition("; the ")[0]
        return f"{cause}\n  restart {self.made} of {self.allowed}, from {beginning(self.directory)}"


def newest(directory: Path) -> int:
    """The step of a train directory's newest checkpoint, by its files' sizes; 0 if there is none."""
    found = newest_path(directory)
    return int(found.name.removeprefix("step-")) if found else 0


def newest_path(directory: Path) -> Path | None:
    return next(filter(complete, reversed(committed(directory / CHECKPOINTS))), None)


def beginning(directory: Path) -> str:
    """Where the next attempt begins: hosts that share no disk may lack what this one has, and go on from less."""
    found = newest_path(directory)
    return f"{'at most ' if found and writers(found) else ''}step {newest(directory)}"


def reached(directory: Path) -> int:
    """The step that a failed attempt is known to have come to: it was saved, or a rank was there in the end."""
    rows = (read_failure(directory) or {"ranks": []})["ranks"]
    return max([newest(directory), *(row["step"] for row in rows)])
