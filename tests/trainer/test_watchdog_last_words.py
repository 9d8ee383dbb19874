"""A rank that fails ends, and tells the others, even where nothing can be written or nobody listens."""

from __future__ import annotations

import contextlib
import io
import sys
import threading
from pathlib import Path

import pytest

from tracestill.data_pipeline.errors import NoRoomError
from tracestill.trainer import heartbeat, watchdog
from tracestill.trainer.watchdog import Watchdog


class Ended(Exception):
    pass


class Broken(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watchdog:
    """The only rank of a training whose directory cannot be made: a file is in its place."""

    def end(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(heartbeat, "shared_memory", lambda: tmp_path)
    monkeypatch.setattr(watchdog, "GRACE", 0.0)
    monkeypatch.setattr(watchdog, "PATIENCE", 600.0)
    monkeypatch.setattr(watchdog.os, "_exit", end)
    (tmp_path / "file").write_text("")
    made = Watchdog.__new__(Watchdog)
    made.directory, made.rank, made.host, made.nodes = tmp_path / "file" / "train", 0, "here", None
    made.board = heartbeat.Board("token", 0, [0])
    return made


def test_a_full_disk_keeps_its_exit_code(watch: Watchdog) -> None:
    assert watch.fail(NoRoomError("no room"))
    assert watch.board.alarm is not None
    assert watch.board.alarm["code"] == NoRoomError.exit_code


def test_an_alarm_ends_a_rank_that_cannot_tell_anybody(watch: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Broken())
    monkeypatch.setattr(sys, "stdout", Broken())
    with pytest.raises(Ended, match="4"):
        watch.go_down(watch.alarm(0, "was told to end"))


def test_an_alarm_ends_a_rank_whose_file_system_never_returns(watch: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    ended, over = threading.Event(), threading.Event()

    def hang(path: Path, text: str) -> None:
        over.wait()
        raise Ended

    def go_down() -> None:
        with contextlib.suppress(Ended):
            watch.go_down(watch.alarm(0, "was told to end"))

    monkeypatch.setattr(watchdog, "PATIENCE", 0.1)
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: ended.set())
    monkeypatch.setattr(watchdog, "leave_word", hang)
    going = threading.Thread(target=go_down)
    going.start()
    try:
        assert ended.wait(10)
    finally:
        over.set()
        going.join()
