"""Runs a module: ``python start_module.py MODULE ARGUMENTS``, with neither the working directory, which anybody may
have filled, nor this folder on Python's path, in it and in every Python that it starts.

That is PYTHONSAFEPATH of Python 3.11. Python 3.10 does not know it, and DeepSpeed's launchers start Python with
``-m``, which puts the working directory first: there, this file takes the place of ``-m`` in their commands.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import gc
import runpy
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START = Path(__file__)
OF_DEEPSPEED = "deepspeed.launcher."


def module_command(module: str) -> list[str]:
    """The beginning of a command that runs a module, here or on a host with the same environment; arguments follow."""
    return [sys.executable, str(START), module]


def by_file(command: Sequence[Any]) -> list[Any]:
    """A command with this file in place of Python's ``-m``: ``["python", "-u", "-m", "a.b"]`` and the like."""
    words = list(command)
    for at, word in enumerate(words):
        if word == sys.executable:
            flags = next((n for n, flag in enumerate(words[at + 1 :]) if flag != "-u"), 0)
            if words[at + 1 + flags : at + 2 + flags] == ["-m"]:
                words[at + 1 + flags] = str(START)
    return words


class ByFile(subprocess.Popen):
    """Takes the place of Popen in DeepSpeed's launchers, for whatever else they and libraries start, too."""

    def __init__(self, args: Any, *more: Any, **named: Any) -> None:
        super().__init__(by_file(args) if isinstance(args, list | tuple) else args, *more, **named)


def main() -> None:
    del sys.argv[0]
    if sys.argv[0].startswith(OF_DEEPSPEED):
        gc.disable()  # they import a lot, and then they wait
        if not getattr(sys.flags, "safe_path", False):
            subprocess.Popen = ByFile  # type: ignore[misc]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
