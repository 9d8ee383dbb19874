"""Keeps the working directory, which anybody may have filled, off Python's path: a file ``json.py`` there is not ours.

Imported before anything else where a program begins, so it imports only what every Python has loaded by then.
"""

import os
import sys

_left = False


def leave_working_directory() -> None:
    """Take from Python's path what ``python -m``, or ``python FILE``, has put first, here and in every Python that is
    started from here. Calls after the first do nothing.

    The console command has no such entry, and all that work on a run are to find the same modules.
    """
    global _left
    if not _left and not getattr(sys.flags, "safe_path", sys.flags.isolated):  # Python 3.10 knows no safe_path
        del sys.path[0]
    _left = True
    os.environ["PYTHONSAFEPATH"] = "1"
