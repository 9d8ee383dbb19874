"""What the user can mend: the input is wrong, here is where, here is what to do."""

from __future__ import annotations

EXIT_NO_ROOM = 5


class InputError(ValueError):
    """Bad input from the user. Its message is one line that names the file, line or field, what was expected
    and what to do; the command line prints it without a traceback and exits with its ``exit_code``."""

    exit_code = 2


class NoRoomError(InputError):
    """A disk is full, or a quota is used up; nothing that was committed before is lost."""

    exit_code = EXIT_NO_ROOM
