"""Says what DeepSpeed's launcher would execute, by letting it do everything but that.

python -m tracestill.launch.rehearse ARGUMENTS, with the launcher's own arguments and environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from tracestill.launch.probe import MARK


def record(command: list[str], env: dict[str, str]) -> NoReturn:
    """Takes the place of Popen."""
    print(MARK + json.dumps({"command": command, "environment": env}), flush=True)
    os._exit(0)


class Recorder:
    """Takes the place of the module ``subprocess`` in the launcher."""

    def __getattr__(self, name: str) -> Any:
        return record if name == "Popen" else getattr(subprocess, name)


def rehearse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment that the launcher, ``python -m deepspeed.launcher.runner …``, would execute."""
    start = [sys.executable, "-m", "tracestill.launch.rehearse", *arguments[3:]]
    found = subprocess.run(start, env=dict(environment), capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(f"DeepSpeed's launcher refuses {arguments[3:]}:\n{found.stderr[-2000:]}")
    value = json.loads(lines[0][len(MARK) :])
    return value["command"], value["environment"]


if __name__ == "__main__":
    from deepspeed.launcher import runner

    runner.subprocess = Recorder()
    runner.main(sys.argv[1:])
