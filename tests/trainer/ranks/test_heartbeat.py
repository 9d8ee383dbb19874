"""Boards in shared memory: what killed trainings left goes, what others use stays."""

from __future__ import annotations

import os
import signal
import subprocess
import time

import pytest

from tracestill.trainer.ranks import heartbeat


def test_only_old_boards_of_dead_ranks_are_swept(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "shared_memory", lambda: tmp_path)
    living, dead, young, empty = (heartbeat.Board(name, 0, [0, 1]) for name in ("living", "dead", "young", "empty"))
    for board in (dead, young, empty):
        board.mine[heartbeat.BORN] -= 1  # as of a process that had this number before
    (empty.folder / "ranks").unlink()
    foreign = tmp_path / "other"
    foreign.mkdir()
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(heartbeat, "node_identity", lambda: b"another container's")
        heartbeat.Board("far", 0, [0, 1]).mine[heartbeat.BORN] -= 1
        far = heartbeat.prefix() + "far"
    for folder in (living.folder, dead.folder, empty.folder, foreign, tmp_path / far):
        os.utime(folder, (time.time() - 3600,) * 2)
    heartbeat.sweep()
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{heartbeat.prefix()}living",
        f"{heartbeat.prefix()}young",
        f"{heartbeat.prefix()}empty",  # nothing tells whose it was
        "other",
        far,
    }


def test_a_process_that_is_hidden_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hidepid /proc tells a user nothing of other users' processes."""
    process = subprocess.Popen(["sleep", "60"])
    try:
        since = heartbeat.born(process.pid)
        assert since
        assert heartbeat.lives(process.pid, since) is True
        assert heartbeat.lives(process.pid, since - 1) is False
        with monkeypatch.context() as hidden:
            hidden.setattr(heartbeat, "born", lambda pid: None)
            hidden.setattr(os, "access", lambda path, mode: False)
            hidden.setattr(os, "kill", not_permitted)
            assert heartbeat.lives(process.pid, since) is None
        os.kill(process.pid, signal.SIGKILL)
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert heartbeat.lives(process.pid, since) is False, "only its remains"
    finally:
        process.kill()
        process.wait()
    assert heartbeat.lives(process.pid, since) is False


def not_permitted(pid: int, number: int) -> None:
    raise PermissionError(1, "Operation not permitted")
