"""DeepSpeed's launcher, asked what it would execute: it does everything but that.

start_module.py tracestill.trainer.engine.rehearsal ARGUMENTS, with the launcher's own arguments and environment.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything else is imported: `python -m` has put the working directory first
    from tracestill.data_pipeline.guards.working_directory import leave_working_directory

    leave_working_directory()

import gc
import json
import os
import subprocess
import sys
from typing import Any, NoReturn

MARK = "tracestill-rehearsal:"  # begins the line that tells


def record(command: list[str], env: dict[str, str]) -> NoReturn:
    """Takes the place of Popen."""
    print(MARK + json.dumps({"command": command, "environment": env}), flush=True)
    os._exit(0)


class Recorder:
    """Takes the place of the module ``subprocess`` in the launcher."""

    def __getattr__(self, name: str) -> Any:
        return record if name == "Popen" else getattr(subprocess, name)


if __name__ == "__main__":
    gc.disable()  # this process imports, and ends
    from deepspeed.launcher import runner

    runner.subprocess = Recorder()
    runner.main(sys.argv[1:])
