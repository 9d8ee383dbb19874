"""The one exception that means: the input is wrong, here is where, here is what to do."""

from __future__ import annotations


class InputError(ValueError):
    """Bad input from the user. Its message is one line that names the file, line or field, what was expected
    and what to do; the command line prints it without a traceback and exits with code 2."""
