"""How commands end by errors that nobody foresaw: what a user can mend is a line, what is ours keeps its traceback."""

from __future__ import annotations

import errno

import pytest
import typer
from typer.testing import CliRunner

from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.commands.guarded import Guarded
from tracestill.launch.start.deepspeed_command import TrainingFailed

TAIL = "training ended with exit code 1; its end:\n  raised: I/O error: No space left on device (os error 28)"


def end_of(error: Exception):
    app = typer.Typer(cls=Guarded)

    @app.command()
    def act() -> None:
        raise error

    app.callback()(lambda: None)
    return CliRunner().invoke(app, ["act"])


@pytest.mark.parametrize(("name", "said"), [(7, "standard output"), (b"a/file", "a/file"), (None, "standard output")])
def test_a_full_disk_whatever_the_error_names(name, said):
    found = end_of(OSError(errno.ENOSPC, "No space left on device", name))
    assert found.exit_code == 5
    assert found.stderr.startswith(f"error: {said}: no room on this disk")


def test_a_path_of_bytes_that_may_not_be_written():
    found = end_of(OSError(errno.EACCES, "Permission denied", b"a/file"))
    assert found.exit_code == 2
    assert found.stderr.startswith("error: a/file: Permission denied; let this user")


@pytest.mark.parametrize("name", [None, 7])
def test_a_permission_that_is_missing_nowhere_keeps_its_traceback(name):
    error = PermissionError(errno.EPERM, "Operation not permitted", name)
    found = end_of(error)
    assert (found.exit_code, found.exception) == (1, error)


def test_a_full_disk_that_ranks_told_of_is_quoted_in_whole():
    found = end_of(TrainingFailed(TAIL))
    assert found.exit_code == TrainingFailed.exit_code
    assert found.stderr == f"error: {TAIL}\n"


def test_a_full_disk_of_a_teacher_s_server_is_not_ours():
    error = InputError("teacher 'x' failed 3 times")
    error.__cause__ = RuntimeError("the server replied 500: No space left on device (os error 28)")
    assert end_of(error).exit_code == 2
    error.__cause__ = ConnectionError("the server replied 500: [Errno 28] No space left on device")
    assert end_of(error).exit_code == 2
