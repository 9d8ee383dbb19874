"""`tracestill watch` as it is called: once, in lines, as pictures, until the work ends or nobody wants to see more."""

import contextvars
import io
import json
import os
import pty
import signal
from types import SimpleNamespace

import pytest
from fake_run import claim, mini_recipe, run_data_stages
from typer.testing import CliRunner

from tracestill.launch import cli
from tracestill.launch.commands import watch_command
from tracestill.launch.watch import keys as keys_module
from tracestill.launch.watch import plain
from tracestill.launch.watch import watch as watch_module
from tracestill.launch.watch.keys import keys
from tracestill.launch.watch.run import RunFollow
from tracestill.launch.watch.watch import show_lines, show_pictures, watch
from tracestill.trainer.lock.run_lock import LOCK, held
from tracestill.trainer.ranks.console import Terminal


@pytest.fixture
def run(tmp_path):
    return claim(tmp_path / "run", mini_recipe())


def invoke(*words, width=100):
    return CliRunner().invoke(cli.app, [str(word) for word in words], env={"COLUMNS": str(width)})


def test_once_shows_it_or_says_that_there_is_none(run, tmp_path):
    run_data_stages(run)
    done = invoke("watch", run.root, "--once")
    assert done.exit_code == 0
    assert "nobody is at work" in " ".join(done.stdout.split())  # a long path of the run may wrap the line
    assert "answers_only" in done.stdout
    found = json.loads(invoke("watch", run.root, "--once", "--json").stdout)
    assert (found["name"], found["at_work"], found["owner"]) == ("mini", False, None)
    assert {arm: row["state"] for arm, row in found["arms"].items()} == {"traces": "waits", "answers_only": "waits"}
    assert found["finished"][0]["stage"] == "sample"
    with held(run.root):
        found = json.loads(invoke("watch", run.root, "--once", "--json").stdout)
    assert (found["at_work"], found["owner"]["state"], found["owner"]["pid"]) == (True, "alive", os.getpid())
    none = invoke("watch", tmp_path / "nowhere", "--once")
    assert none.exit_code == 2
    assert "not a run directory" in none.stderr
    for words in ([], ["--serve"]):
        none = invoke("watch", tmp_path / "nowhere", *words)
        assert none.exit_code == 2
        assert "add --wait" in none.stderr


@pytest.mark.parametrize("words", [["--json"], ["--port", "80"], ["--once", "--wait"], ["--once", "--serve"]])
def test_options_that_mean_nothing_together_are_refused(run, words):
    done = invoke("watch", run.root, *words)
    assert done.exit_code == 2
    assert "Usage" in done.stderr


def test_it_ends_with_the_work_and_not_in_a_gap_between_two_commands(run, monkeypatch, capsys):
    clock = [0.0]
    monkeypatch.setattr(watch_module.time, "monotonic", lambda: clock[0])
    work, slept = held(run.root), []
    work.__enter__()

    def hear(seconds):
        clock[0] += seconds
        slept.append(clock[0])
        if len(slept) == 3:
            work.__exit__(None, None, None)
        if len(slept) == 6:
            run_data_stages(run)
        return ""

    show_lines(RunFollow(run.root), hear, stays=False)
    said = capsys.readouterr().out.splitlines()
    assert len(slept) == 3 + 5 - 1, "5 s of grace from when it was last seen at work"
    assert said[0].startswith("mini: `")
    assert "mini: nobody is at work" in said
    assert any(line.startswith("select: kept") for line in said)


def test_nobody_at_work_is_one_look_and_wait_goes_on(run, monkeypatch):
    def never(seconds):
        raise AssertionError("it looked again")

    show_lines(RunFollow(run.root), never, stays=False)
    left = iter(["", "", "end"])
    show_lines(RunFollow(run.root), lambda seconds: next(left), stays=True)
    assert next(left, None) is None


def test_a_run_that_is_not_there_is_waited_for_and_ctrl_c_is_a_good_end(tmp_path, monkeypatch):
    root, waits = tmp_path / "run", []

    def wait(seconds):
        waits.append(seconds)
        if len(waits) == 2:
            contextvars.Context().run(claim, root, mini_recipe())  # another process, which does not only look
        if len(waits) == 4:
            raise KeyboardInterrupt
        return ""

    monkeypatch.setattr(watch_module, "wait", wait)
    done = invoke("watch", root, "--wait")
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [f"{root}: no run yet; waiting for it", "mini: nobody is at work"]
    assert len(waits) == 4


def test_keys_move_the_picture_and_end_it(tmp_path):
    arms = {f"arm{at}": {"train": {"lr": at * 1e-4}} for at in range(1, 4)}
    run = claim(tmp_path / "run", mini_recipe(arms=arms))
    out = io.StringIO()
    console = Terminal(file=out, force_terminal=True, width=54, height=24, color_system=None)
    pressed = iter(["next", "3", "previous", "", "end"])
    show_pictures(RunFollow(run.root), console, lambda seconds: next(pressed), stays=True, note="report: here")
    shown = [line.split() for line in out.getvalue().splitlines() if "more" in line]
    assert [line[3:5] for line in shown] == [
        ["traces", "arm1"],
        ["arm1", "arm2"],
        ["arm2", "arm3"],
        ["arm1", "arm2"],
        ["arm1", "arm2"],
    ]
    assert "report: here" in out.getvalue()
    assert "\x1b[?1049h" in out.getvalue(), "a screen of its own"
    assert "\x1b[?1049l" in out.getvalue(), "which goes"


def test_keys_are_read_one_by_one_and_the_terminal_is_as_before(monkeypatch):
    above, below = pty.openpty()
    monkeypatch.setattr(keys_module, "terminal", lambda: below)
    before = keys_module.termios.tcgetattr(below)
    with keys() as hear:
        for typed, heard in ((b"\t", "next"), (b"\x1b[D", "previous"), (b"7", "7"), (b"x", ""), (b"q", "end")):
            os.write(above, typed)
            assert hear(5.0) == heard
        assert hear(0.0) == ""
    assert keys_module.termios.tcgetattr(below) == before
    os.close(above)
    os.close(below)


def test_a_reader_that_has_seen_enough_is_no_error(run, monkeypatch):
    ends = []
    monkeypatch.setattr(watch_command.os, "dup2", lambda *to: ends.append(to))

    def broken(*words, **more):
        raise BrokenPipeError

    monkeypatch.setattr("tracestill.launch.watch.watch.show_once", broken)
    assert invoke("watch", run.root, "--once").exit_code == 0
    assert len(ends) == 1


def test_nothing_of_it_holds_or_takes_the_lock(run):
    watch(run.root, Terminal(file=io.StringIO()))
    assert not (run.root / LOCK).exists()
    with held(run.root):
        before = (run.root / LOCK).read_text()
        invoke("watch", run.root, "--once")
        assert (run.root / LOCK).read_text() == before
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_warning_whose_time_runs_is_not_said_each_second(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(plain, "who", lambda seen: "at work")
    watched, said = plain.Plain(clock=lambda: clock[0]), []
    for second in range(70):
        clock[0] = float(second)
        warnings = [f"seed-{n}: nothing was heard of the ranks for 1m {second}s" for n in (0, 1)]
        seen = SimpleNamespace(name="r", finished=[], now=[], rounds=None, arms={}, warnings=[*warnings, "another"])
        said += [line for line in watched.lines(seen) if line.startswith("warning")]
    assert [line.split()[-1] for line in said] == ["0s", "0s", "another", "30s", "30s", "60s", "60s"]
