"""The owner of a run directory's lock keeps it alive, and ends for another owner, but not for a hiccup."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from lock_support import leave, names, owner_of, quick, refuse, until

from tracestill.trainer.faults.failure import EXIT_FAILED
from tracestill.trainer.lock import run_lock
from tracestill.trainer.lock.end_marked import AT_ONCE
from tracestill.trainer.lock.run_lock import AFTER, LOCK, Found, held, last_of, token_of
from tracestill.trainer.ranks.join_ranks import OWNER


@pytest.fixture(autouse=True)
def robbed(monkeypatch):
    return quick(monkeypatch)[0]


@pytest.fixture
def gone() -> dict[str, int]:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"pid": process.pid}


def test_an_owner_that_was_taken_for_dead_ends(tmp_path):
    """It stood still for long; another one took the lock over."""
    code = (
        "import sys, time; from pathlib import Path; from tracestill.trainer.lock import run_lock\n"
        "run_lock.BEAT = 0.05\n"
        "with run_lock.held(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        other = replace(owner_of(tmp_path), token="e" * 32, host="other")
        (tmp_path / LOCK).write_text(json.dumps(vars(other)))
        process.send_signal(signal.SIGCONT)
        _, said = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == EXIT_FAILED
    assert names(tmp_path) == [LOCK], "nothing was written: it is another one's"
    assert "was taken over by" in said
    assert "on other" in said
    assert last_of(tmp_path).token == other.token, "what is another one's stays"


@pytest.fixture
def slowly(monkeypatch):
    """Silence that the beating thread does not reach, however slow this machine is."""
    monkeypatch.setattr(run_lock, "SILENCE", 600.0)


@pytest.mark.usefixtures("slowly")
def test_a_lock_that_is_deleted_comes_back_and_ends_nobody(tmp_path, robbed, capsys):
    with held(tmp_path):
        mine = owner_of(tmp_path)
        (tmp_path / LOCK).unlink()
        until((tmp_path / LOCK).exists)
        assert owner_of(tmp_path) == mine
    assert (robbed, names(tmp_path)) == ([], [])
    assert f"warning: {tmp_path}: somebody has deleted {LOCK}" in capsys.readouterr().err


@pytest.mark.usefixtures("slowly")
def test_a_directory_that_is_away_for_a_while_ends_nobody(tmp_path, robbed):
    root, looks = tmp_path / "run", []
    with held(root):
        root.rename(tmp_path / "away")
        before = run_lock.last_of
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run_lock, "last_of", lambda at: looks.append(1) or before(at))
            until(lambda: len(looks) > 2)
        assert not root.exists(), "nobody makes another one"
        (tmp_path / "away").rename(root)
        time.sleep(0.1)
        assert names(root) == [LOCK]
    assert robbed == []


@pytest.mark.usefixtures("slowly")
def test_a_damaged_lock_ends_nobody_and_is_kept_alive(tmp_path, robbed):
    with held(tmp_path):
        (tmp_path / LOCK).write_text("")
        time_of = (tmp_path / LOCK).stat().st_mtime_ns
        until(lambda: (tmp_path / LOCK).stat().st_mtime_ns > time_of)
    assert robbed == []


@pytest.mark.usefixtures("slowly")
def test_one_look_at_another_one_s_lock_ends_nobody_and_two_do(tmp_path, robbed, monkeypatch):
    with held(tmp_path):
        mine = owner_of(tmp_path)
        theirs = Found(tmp_path / LOCK, replace(mine, token="e" * 32, host="other"), "e" * 32)
        answers, real = [theirs, None, theirs], run_lock.last_of
        monkeypatch.setattr(run_lock, "last_of", lambda root: (answers.pop(0) if answers else None) or real(root))
        until(lambda: not answers)
        time.sleep(0.1)
        assert robbed == []
        answers += [theirs, theirs]
        until(lambda: robbed)
        assert "was taken over by" in robbed[0]
    assert token_of(tmp_path) is None


def test_one_that_stood_still_until_another_could_have_come_and_gone_ends(tmp_path, robbed, monkeypatch):
    with held(tmp_path):
        monkeypatch.setattr(run_lock, "SILENCE", -1.0)  # it always stands still for longer
        (tmp_path / LOCK).unlink()
        until(lambda: robbed)
    assert "stood still" in robbed[0]


def test_it_kills_what_it_started_and_leaves_without_a_word_in_the_directory(tmp_path, monkeypatch):
    monkeypatch.undo()
    told: list[object] = []
    monkeypatch.setattr(run_lock, "end_marked", lambda *asked: told.append(asked))
    monkeypatch.setattr(os, "_exit", told.append)
    with held(tmp_path):
        token = owner_of(tmp_path).token
        run_lock.end_robbed(run_lock._held[tmp_path], "x")
        assert names(tmp_path) == [LOCK]
    assert told == [(token, OWNER, AT_ONCE), EXIT_FAILED]


def test_signs_of_life_where_a_time_cannot_be_set(tmp_path, monkeypatch):
    (tmp_path / LOCK).write_text("{}")
    os.utime(tmp_path / LOCK, (0, 0))
    monkeypatch.setattr(os, "utime", refuse)
    run_lock.touch(tmp_path / LOCK)
    assert (tmp_path / LOCK).stat().st_mtime > 0
    assert (tmp_path / LOCK).read_text() == "{}"


def test_an_owner_that_can_give_no_sign_of_life_says_so_once(tmp_path, monkeypatch, capsys, robbed):
    tries: list[int] = []
    monkeypatch.setattr(run_lock, "touch", lambda file: tries.append(1) or refuse())
    with held(tmp_path):
        monkeypatch.setattr(run_lock, "SILENCE", 0.0)
        until(lambda: len(tries) > 5)
    assert capsys.readouterr().err.count("no sign of life can be given") == 1
    assert robbed == []


def test_a_link_to_a_run_that_comes_to_lead_elsewhere(tmp_path, robbed):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    (tmp_path / "latest").symlink_to("one")
    with held(tmp_path / "latest"):
        (tmp_path / "latest").unlink()
        (tmp_path / "latest").symlink_to("two")
        time.sleep(0.1)
        assert (names(tmp_path / "one"), names(tmp_path / "two")) == ([LOCK], [])
    assert (names(tmp_path / "one"), robbed) == ([], [])


def test_a_link_that_was_made_though_its_answer_was_lost_or_asked_twice(tmp_path, monkeypatch):
    """NFS sends a question again whose answer is late; the second one finds what the first has made."""
    real = os.link
    for error in (FileExistsError(17, "File exists"), TimeoutError(110, "Connection timed out")):

        def link(*names: str, error: OSError = error) -> None:
            real(*names)
            raise error

        monkeypatch.setattr(os, "link", link)
        with held(tmp_path):
            assert names(tmp_path) == [LOCK]
        assert names(tmp_path) == []


def test_who_wakes_late_deletes_no_lock_but_its_own(tmp_path):
    owner = leave(tmp_path)
    found = last_of(tmp_path)
    (tmp_path / LOCK).write_text(json.dumps(vars(replace(owner, token="e" * 32))))
    run_lock.drop(found)
    assert owner_of(tmp_path).token == "e" * 32


def test_who_wakes_late_makes_no_chain_one_file_that_has_gone_or_goes_on(tmp_path, gone, monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 60)
    dead = leave(tmp_path, **gone)
    mine, _ = run_lock.take(tmp_path, lambda text: None, 0)
    lock = run_lock.Lock(tmp_path, mine)
    before = run_lock.chain(tmp_path)
    successor = replace(mine, token="e" * 32)
    (tmp_path / f"{AFTER}{mine.token}").write_text(json.dumps(vars(successor)))
    lock.gather()
    assert [found.token for found in run_lock.chain(tmp_path)] == [dead.token, mine.token, successor.token]
    for name in names(tmp_path):
        (tmp_path / name).unlink()
    monkeypatch.setattr(run_lock, "chain", lambda root: before)  # looked before they went
    lock.gather()
    lock.release()
    assert names(tmp_path) == []


def test_an_owner_that_may_not_be_seen_is_not_dead(tmp_path, monkeypatch):
    """Where /proc hides other users' processes it is watched for signs of life."""
    leave(tmp_path)
    monkeypatch.setattr(run_lock, "lives", lambda pid, since: None)
    said: list[str] = []
    with held(tmp_path, said.append):
        pass
    assert "looking for signs of life" in said[0]
