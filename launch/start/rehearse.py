"""What DeepSpeed's launcher would execute (``trainer.engine.rehearsal``)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence

from tracestill.launch.hosts.start_module import module_command
from tracestill.trainer.engine.rehearsal import MARK


def rehearse(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
    """Command and environment that DeepSpeed's launcher, started by ``module_command``, would execute."""
    start = [*module_command("tracestill.trainer.engine.rehearsal"), *arguments[3:]]
    found = subprocess.run(start, env=dict(environment), capture_output=True, text=True, check=False)
    lines = [line for line in found.stdout.splitlines() if line.startswith(MARK)]
    if not lines:
        raise RuntimeError(f"DeepSpeed's launcher refuses {arguments[3:]}:\n{found.stderr[-2000:]}")
    value = json.loads(lines[0][len(MARK) :])
    return value["command"], value["environment"]
