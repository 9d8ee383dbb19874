"""How every command ends: what the user can mend becomes plain lines and an exit code."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup


class Guarded(TyperGroup):
    """Turns what the user can mend into plain lines, and every end into the exit code that the help tells."""

    def invoke(self, ctx: Any) -> Any:
        from tracestill.data_pipeline.errors import EXIT_NO_ROOM, InputError, tells_of_no_room
        from tracestill.launch.deepspeed_command import TrainingFailed, TrainingStopped
        from tracestill.trainer.console import say

        try:
            return super().invoke(ctx)
        except (InputError, TrainingFailed) as error:
            complain(str(error))
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt as interrupt:
            complain(str(interrupt) or "interrupted")
            raise typer.Exit(130) from None
        except TrainingStopped as stop:
            say(str(stop), err=True)
            raise typer.Exit(3) from None
        except OSError as error:
            if not tells_of_no_room(str(error)):
                raise
            complain(f"{error}; make room and run the same command again: finished stages are kept")
            raise typer.Exit(EXIT_NO_ROOM) from None


def complain(message: str) -> None:
    """One ``error:`` for each line of a message, on stderr, secrets masked; further lines of an output that is quoted
    are indented."""
    from tracestill.data_pipeline.secret import mask
    from tracestill.trainer.console import say

    for line in mask(message).split("\n"):
        say(line if line.startswith(" ") else f"error: {line}", err=True)
