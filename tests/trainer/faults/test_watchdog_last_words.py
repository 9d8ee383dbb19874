"""A rank that fails ends, and tells the others, even where nothing can be written or nobody listens."""

from __future__ import annotations

import contextlib
import io
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lone_rank import alone

from tracestill.data_pipeline.base.errors import NoRoomError
from tracestill.trainer import train
from tracestill.trainer.faults import watchdog
from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.faults.stopping import EXIT_STOPPED, StopRequest
from tracestill.trainer.faults.watchdog import Watchdog
from tracestill.trainer.ranks import heartbeat
from tracestill.trainer.recipe.settings import WatchdogConfig


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

    alone(monkeypatch, tmp_path)
    monkeypatch.setattr(watchdog, "GRACE", 0.0)
    monkeypatch.setattr(watchdog, "PATIENCE", 600.0)
    monkeypatch.setattr(watchdog.os, "_exit", end)
    (tmp_path / "file").write_text("")
    return Watchdog(tmp_path / "file" / "train", WatchdogConfig(step=60, save=70, start=80))


@pytest.mark.parametrize("resumed", [0, 40])
def test_the_step_that_compiles_may_take_as_long_as_a_start(watch: Watchdog, resumed: int) -> None:
    """The first that this process computes, which after a resume is not that of the training."""
    limits = []
    phases = [(name, resumed) for name in ("load", "measure", "data", "forward", "backward", "communication", "save")]
    phases += [(name, resumed + 1) for name in ("data", "forward", "backward", "communication", "measure")]
    for name, step in phases:
        watch.phase(name, step)
        (row,) = watch.board.read()
        limits.append((row.phase, row.step, row.limit))
    wanted = [70, 70, 60, 80, 80, 80, 70, 60, 60, 60, 60, 70]
    assert limits == [(*phase, limit) for phase, limit in zip(phases, wanted, strict=True)]


def test_a_start_may_take_as_long_as_it_may(watch: Watchdog) -> None:
    assert [(row.phase, row.step, row.limit) for row in watch.board.read()] == [("start", 0, 80)]


def test_a_full_disk_keeps_its_exit_code(watch: Watchdog) -> None:
    assert watch.fail(NoRoomError("no room"))
    assert watch.board.alarm is not None
    assert watch.board.alarm["code"] == NoRoomError.exit_code


@pytest.fixture
def calm(watch: Watchdog) -> Watchdog:
    """Nothing but a signal gives it cause for an alarm."""
    watch.settings, watch.seen, watch.parent = WatchdogConfig(), {}, None
    watch.phase("start", 0)
    return watch


def test_sigterm_before_the_first_step_is_a_stop(calm: Watchdog, capsys: pytest.CaptureFixture[str]) -> None:
    watch, now = calm, time.monotonic()
    watch.on_sigterm(signal.SIGTERM, None)
    assert watch.look(now) is None, "the launcher sends it too when a rank has died: another look first"
    alarm = watch.look(now + 5)
    assert alarm is not None
    with pytest.raises(Ended, match="3"):
        watch.stop(alarm)
    assert capsys.readouterr().err == (
        "stopped: rank 0 was told to end (SIGTERM) before its first step; nothing is lost\n"
    )
    assert watch.board.alarm == alarm, "the others follow"


@pytest.mark.parametrize("then", ["saved by the loop", "left to the watchdog"])
def test_sigterm_just_before_the_loop_loses_no_step(calm: Watchdog, tmp_path: Path, then: str) -> None:
    """It came while there was nothing to save; what the loop has done since is saved, or was never begun."""
    calm.on_sigterm(signal.SIGTERM, None)
    with StopRequest(tmp_path, seconds=None, started=0.0, rank=1, hand_over=calm.hand_over) as stop:
        if then == "saved by the loop":
            stop.begin()
        calm.phase("forward", 0)
        alarm = calm.look(time.monotonic() + 5)
    assert stop.reason() == ("SIGTERM" if then == "saved by the loop" else "")
    assert (alarm and alarm["code"]) == (None if then == "saved by the loop" else EXIT_STOPPED)


@pytest.mark.parametrize(
    ("phase", "failing", "code"),
    [("forward", False, EXIT_FAILED), ("finish", False, EXIT_STOPPED), ("finish", True, EXIT_FAILED)],
)
def test_sigterm_after_the_last_step_is_a_stop_too(calm: Watchdog, phase: str, failing: bool, code: int) -> None:
    calm.phase("forward", 7)
    calm.phase(phase, 8)
    calm.on_sigterm(signal.SIGTERM, None)
    calm.failing = failing
    alarm = calm.look(time.monotonic() + 5)
    assert alarm is not None
    assert alarm["code"] == code


@pytest.mark.parametrize("step", [0, 3])
def test_until_the_loop_begins_signals_are_the_watchdogs(
    calm: Watchdog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A measurement before the first step may take half an hour."""
    heard = []

    def note(*arguments: object) -> None:
        heard.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    def begun(job: object) -> None:
        note()
        raise Ended

    for name in ("Meter", "throughput_of", "open_log", "Prefetch"):
        monkeypatch.setattr(train, name, lambda *arguments: None)
    monkeypatch.setattr(train, "measure", note)
    monkeypatch.setattr(train, "teller_of", begun)
    job: Any = SimpleNamespace(
        recipe=SimpleNamespace(train=None, span_kinds=list),
        engine=SimpleNamespace(device=None, module=SimpleNamespace(routers=None)),
        batches=None,
    )
    job.progress, job.steps, job.measures = SimpleNamespace(step=step), 8, True
    before = {number: signal.signal(number, calm.on_sigterm) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with (
            pytest.raises(Ended),
            StopRequest(tmp_path, seconds=None, started=0.0, rank=0, hand_over=calm.hand_over) as stop,
        ):
            train.train(job, stop)
        assert heard == [*[(calm.on_sigterm,) * 2][step:], (stop.on_signal, stop.on_interrupt)]
        assert signal.getsignal(signal.SIGTERM) == calm.on_sigterm
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


def test_the_alarm_comes_before_anything_is_written(watch: Watchdog, monkeypatch: pytest.MonkeyPatch) -> None:
    never = threading.Event()
    monkeypatch.setattr(watchdog, "leave_word", lambda path, text: never.wait(60))
    threading.Thread(target=watch.fail, args=[ZeroDivisionError("of a test")], daemon=True).start()
    deadline = time.monotonic() + 10
    while watch.board.alarm is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    never.set()


def test_a_file_system_that_never_returns_keeps_no_neighbour_alive(
    watch: Watchdog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A neighbour that stands still cannot end by itself; one whose beats go on can."""
    ended, never = threading.Event(), threading.Event()
    sleepers = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) for _ in range(2)]
    watch.board = heartbeat.Board("three", 0, [0, 1, 2])
    for row, sleeper in zip(watch.board.rows[1:], sleepers, strict=True):
        row[heartbeat.PID], row[heartbeat.BORN] = sleeper.pid, heartbeat.born(sleeper.pid)
    monkeypatch.setattr(watchdog, "PATIENCE", 0.5)
    monkeypatch.setattr(watchdog.os, "_exit", lambda code: ended.set())

    def hang(path: Path, text: str) -> None:
        watch.board.rows[2][heartbeat.BEATS] += 1
        never.wait(60)
        raise Ended

    def go_down() -> None:
        with contextlib.suppress(Ended):
            watch.go_down(watch.alarm(1, "is silent"))

    monkeypatch.setattr(watchdog, "leave_word", hang)
    going = threading.Thread(target=go_down)
    going.start()
    try:
        assert ended.wait(10)
        assert sleepers[0].wait(10) == -signal.SIGKILL
        assert sleepers[1].poll() is None
    finally:
        never.set()
        going.join()
        for sleeper in sleepers:
            sleeper.kill()
            sleeper.wait()
