"""How every command ends: what the user can mend becomes plain lines and an exit code."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperGroup

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)  # what a user may mend


class Guarded(TyperGroup):
    """Turns what the user can mend into plain lines, and every end into the exit code that the help tells."""

    def invoke(self, ctx: Any) -> Any:
        from tracestill.data_pipeline.base.errors import InputError
        from tracestill.data_pipeline.base.room import path_of, told_of
        from tracestill.launch.start.deepspeed_command import TrainingFailed, TrainingStopped
        from tracestill.trainer.ranks.console import say

        try:
            return super().invoke(ctx)
        except (InputError, TrainingFailed) as error:
            told: InputError | TrainingFailed = told_of(error, Path()) or error  # a full disk may have led to it
            complain(str(told))
            raise typer.Exit(told.exit_code) from None
        except KeyboardInterrupt as interrupt:
            complain(str(interrupt) or "interrupted")
            raise typer.Exit(130) from None
        except TrainingStopped as stop:
            say(str(stop), err=True)
            raise typer.Exit(3) from None
        except Exception as error:
            named = path_of(error)
            if full := told_of(error, named or Path("standard output")):
                complain(str(full))
                raise typer.Exit(full.exit_code) from None
            if named is None or not isinstance(error, OSError) or error.errno not in FORBIDDEN:
                raise  # without a path there is nothing to mend
            complain(f"{named}: {error.strerror or error}; let this user read and write there, or choose another place")
            raise typer.Exit(InputError.exit_code) from None


def complain(message: str) -> None:
    """One ``error:`` for each line of a message, on stderr, secrets masked; further lines of an output that is quoted
    are indented."""
    from tracestill.data_pipeline.guards.secret import mask
    from tracestill.trainer.ranks.console import say

    with contextlib.suppress(OSError):  # stderr may go to the disk that is full: the exit code still tells
        for line in mask(message).split("\n"):
            say(line if line.startswith(" ") else f"error: {line}", err=True)
