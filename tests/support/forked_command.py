"""``tracestill`` in this process, its ranks forked: for tests to which a whole run is what they look at.

Commands as processes of their own, through DeepSpeed's launcher, are command_line.py's.
"""

from __future__ import annotations

import io
import subprocess
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace

import pytest
from click.testing import Result
from distributed_support import can_fork, fork
from typer.testing import CliRunner

from tracestill.launch import cli
from tracestill.launch.start import deepspeed_command

SECONDS = 240.0  # that ranks may take on a busy machine
NOBODY = 1 << 30  # the number of no process


class Forked:
    """As far as ``deepspeed_command.run`` looks, the process of a launcher: once it is there, its ranks have ended."""

    pid = NOBODY

    def __init__(self, arguments: Sequence[str], env: Mapping[str, str], **_: object) -> None:
        ranks = int(arguments[arguments.index("--num_gpus") + 1])
        words = list(arguments[arguments.index("--module") + 1 :])
        self.returncode, late, said = fork(words, ranks, SECONDS, env)
        assert not late, f"{words} took over {SECONDS} s:\n{said[-3000:]}"
        self.stdout = io.StringIO(said)

    def poll(self) -> int:
        return self.returncode

    wait = poll


def command(*words: object, code: int | None = 0, popen: Callable[..., object] | None = None) -> Result:
    """What a command of the command line says and ends with (``code``; None: with anything). ``popen`` starts the
    launcher in place of a fork."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DS_ACCELERATOR", "cpu")
        patch.setenv("PYTHONSAFEPATH", "")  # which it sets
        patch.delenv("PYTHONSAFEPATH")
        if popen or can_fork():
            popen = popen or Forked
            patch.setattr(deepspeed_command, "subprocess", SimpleNamespace(**{**vars(subprocess), "Popen": popen}))
        found = CliRunner().invoke(cli.app, [str(word) for word in words])
    if found.exception is not None and not isinstance(found.exception, SystemExit):
        raise found.exception
    assert code is None or found.exit_code == code, found.output
    return found
