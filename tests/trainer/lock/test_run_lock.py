"""One command at a time writes into a run directory: who holds it, when it is taken over, and by whom."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from lock_support import leave, names, owner_of, quick, refuse

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.lock import run_lock
from tracestill.trainer.lock.run_lock import AFTER, LOCK, Found, held, last_of, token_of
from tracestill.trainer.ranks.heartbeat import born
from tracestill.trainer.ranks.join_ranks import OWNER, is_first, is_owned


@pytest.fixture(autouse=True)
def ended(monkeypatch):
    return quick(monkeypatch)[1]


@pytest.fixture
def gone() -> dict[str, int]:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"pid": process.pid}


def test_the_second_is_told_of_the_first_and_the_lock_goes_with_it(tmp_path):
    root = tmp_path / "run"
    with held(root):
        assert names(root) == [LOCK]
        assert token_of(root) == token_of(Path(os.path.relpath(root))) == owner_of(root).token
        words = rf"in use by `.*`, process {os.getpid()} on .*, since 20.*; wait for"
        with pytest.raises(InputError, match=words), held(root):
            pass
        assert names(root) == [LOCK]
        (root / "kept").touch()
    assert names(root) == ["kept"]
    assert token_of(root) is None


def test_an_error_gives_it_back_and_leaves_no_directory(tmp_path):
    with pytest.raises(KeyError), held(tmp_path / "run"):
        raise KeyError
    assert not (tmp_path / "run").exists()


def test_a_directory_that_goes_with_the_first_one_s_lock_is_made_again(tmp_path, monkeypatch):
    root, place, first = tmp_path / "run", run_lock.place, [True]

    def late(*arguments: object) -> bool:
        if first.pop() if first else False:
            root.rmdir()
        return place(*arguments)

    monkeypatch.setattr(run_lock, "place", late)
    with held(root):
        assert names(root) == [LOCK]


def test_a_dead_owner_s_lock_is_taken_over_at_once_and_what_it_started_is_ended(tmp_path, gone, ended):
    said = []
    dead = leave(tmp_path, **gone)
    with held(tmp_path, said.append):
        assert names(tmp_path) == [LOCK]
        assert owner_of(tmp_path).pid == os.getpid()
    assert ended == [dead.token]
    assert "taken over from" in said[0]
    assert names(tmp_path) == []


def test_an_id_that_was_given_again_deceives_nobody(tmp_path):
    said = []
    leave(tmp_path, born=born(os.getpid()) - 5)
    with held(tmp_path, said.append):
        assert owner_of(tmp_path).born == born(os.getpid())
    assert "taken over from" in said[0]


@pytest.mark.parametrize("changes", [{"node": "elsewhere", "host": "other"}, {"path": "/where/it/was/copied/from"}])
def test_an_owner_that_cannot_be_seen_lives_while_its_lock_is_touched(tmp_path, changes, ended, monkeypatch):
    monkeypatch.setattr(run_lock, "SILENCE", 5.0)
    said, over = [], threading.Event()
    leave(tmp_path, **changes)

    def beat():
        while not over.wait(0.02):
            os.utime(tmp_path / LOCK)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InputError, match="in use by"), held(tmp_path, say=said.append):
            pass
    finally:
        over.set()
        thread.join()
    assert "looking for signs of life" in said[0]
    monkeypatch.setattr(run_lock, "SILENCE", 0.3)
    started = time.monotonic()
    with held(tmp_path, said.append):
        assert time.monotonic() - started >= run_lock.SILENCE
        assert names(tmp_path) == [LOCK]
    assert ended == [], "what another host runs is not for us to end"


def test_a_lock_cut_off_by_a_crash_is_taken_over_after_the_silence(tmp_path):
    (tmp_path / LOCK).write_text('{"token": "x", "ho')
    with held(tmp_path):
        assert owner_of(tmp_path).pid == os.getpid()


@pytest.mark.parametrize("changes", [{"token": "/../../theirs"}, {"pid": "1"}, {"born": None}])
def test_a_lock_that_somebody_made_names_no_other_file(tmp_path, changes, gone):
    """A token becomes a part of a name, and what a lock leads to is deleted with it."""
    root, theirs = tmp_path / "run", tmp_path / "theirs"
    leave(root, **{**gone, **changes})
    (root / AFTER).mkdir()
    theirs.write_text("kept")
    with held(root):
        assert owner_of(root).pid == os.getpid()
    assert theirs.read_text() == "kept"


def test_of_many_successors_exactly_one_wins(tmp_path, gone):
    for round in range(15):
        leave(tmp_path, **gone)
        won, lost, begin, over = [], [], threading.Barrier(6), threading.Barrier(6)

        def run(won=won, lost=lost, begin=begin, over=over):
            begin.wait()
            try:
                with held(tmp_path):
                    won.append(owner_of(tmp_path).token)
                    over.wait()
            except InputError:
                lost.append(1)
                over.wait()

        threads = [threading.Thread(target=run) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 5), round
        assert names(tmp_path) == []


@pytest.mark.parametrize("when", [1, 2])
def test_a_slow_successor_does_not_take_the_winner_s_lock_for_the_dead_one_s(tmp_path, gone, monkeypatch, when):
    """It has looked, once or twice; before it acts, another one takes over and gives back, and a third is at work."""
    dead, third, looks = leave(tmp_path, **gone), held(tmp_path), [0]

    def late(root: Path) -> Found | None:
        found = last_of(root)
        looks[0] += 1
        if looks[0] == when:
            with held(tmp_path):
                pass
            third.__enter__()
        return found

    monkeypatch.setattr(run_lock, "last_of", late)
    monkeypatch.setattr(run_lock, "BEAT", 60)  # looks are counted
    with pytest.raises(InputError, match="in use by"), held(tmp_path):
        pass
    monkeypatch.undo()
    assert names(tmp_path) == [LOCK]
    assert owner_of(tmp_path).token != dead.token
    third.__exit__(None, None, None)
    assert names(tmp_path) == []


def test_a_successor_that_dies_halfway_is_followed(tmp_path, gone, ended):
    dead = leave(tmp_path, **gone)
    halfway = replace(dead, token="e" * 32)
    (tmp_path / f"{AFTER}{dead.token}").write_text(json.dumps(vars(halfway)))
    assert owner_of(tmp_path).token == halfway.token
    with held(tmp_path):
        assert names(tmp_path) == [LOCK]
    assert ended == [dead.token, halfway.token]
    assert names(tmp_path) == []


def test_the_ranks_of_a_dead_owner_are_ended_though_its_successor_died_before_it_came_to_that(
    tmp_path, gone, ended, monkeypatch
):
    dead = leave(tmp_path, **gone)
    monkeypatch.setattr(run_lock, "born", lambda pid: born(pid) - 5)  # as of a process that is gone
    successor, taken = run_lock.take(tmp_path, lambda text: None, 0)
    monkeypatch.setattr(run_lock, "born", born)
    assert [found.token for found in taken] == [dead.token]
    with held(tmp_path):
        assert ended == [dead.token, successor.token]
        assert names(tmp_path) == [LOCK]
    assert names(tmp_path) == []


def test_where_there_are_no_links(tmp_path, monkeypatch, gone):
    monkeypatch.setattr(os, "link", refuse)
    with held(tmp_path):
        with pytest.raises(InputError, match="in use by"), held(tmp_path):
            pass
        assert names(tmp_path) == [LOCK]
    leave(tmp_path, **gone)
    with held(tmp_path):
        assert names(tmp_path) == [LOCK]
    assert names(tmp_path) == []


def test_a_copy_of_a_run_is_not_held_by_the_owner_of_the_original(tmp_path):
    (tmp_path / "run").mkdir()
    with held(tmp_path / "run"):
        shutil.copytree(tmp_path / "run", tmp_path / "copy")
        with held(tmp_path / "copy"):
            pass
        assert names(tmp_path / "run") == [LOCK]


def test_a_directory_that_cannot_be_written_to(tmp_path):
    (tmp_path / "file").touch()
    words = r"cannot be written to \((File exists|Not a directory)\)"
    with pytest.raises(InputError, match=words), held(tmp_path / "file/run"):
        pass


def test_what_cannot_be_read_as_a_lock_is_named(tmp_path):
    (tmp_path / LOCK).mkdir()
    with (
        pytest.raises(InputError, match=rf"{LOCK}: cannot be read as the lock .*Is a directory.*delete it"),
        held(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (True, False)),
        ({"RANK": "0"}, (True, False)),
        ({"RANK": "1"}, (False, False)),
        ({f"OMPI_COMM_WORLD_{name}": "1" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")}, (False, False)),
        ({"RANK": "0", OWNER: "token"}, (True, True)),
    ],
)
def test_of_ranks_started_by_hand_the_first_takes_the_lock(environment, expected):
    assert (is_first(environment), is_owned(environment)) == expected
