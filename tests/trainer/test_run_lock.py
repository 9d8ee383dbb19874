"""One command at a time writes into a run directory: who holds it, when it is taken over, and by whom."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tracestill.data_pipeline.errors import InputError
from tracestill.trainer import run_lock
from tracestill.trainer.end_marked import AT_ONCE
from tracestill.trainer.failure import EXIT_FAILED
from tracestill.trainer.heartbeat import born
from tracestill.trainer.join_ranks import OWNER, is_first, is_owned
from tracestill.trainer.run_lock import AFTER, LOCK, Found, held, last_of, token_of


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(run_lock, "BEAT", 0.02)
    monkeypatch.setattr(run_lock, "SILENCE", 0.3)
    monkeypatch.setattr(run_lock, "LOOK", 0.01)


@pytest.fixture(autouse=True)
def robbed(monkeypatch):
    """What ends a process of these tests instead of its end; an owner that is robbed by none must not say so."""
    reasons: list[str] = []
    monkeypatch.setattr(run_lock, "end_robbed", lambda lock, why: reasons.append(why))
    return reasons


@pytest.fixture(autouse=True)
def ended(monkeypatch):
    """The tokens of owners whose processes were ended."""
    tokens: list[str] = []
    monkeypatch.setattr(run_lock, "end_marked", lambda token, variable, *grace: tokens.append(token))
    return tokens


def owner_of(root: Path) -> run_lock.Owner:
    found = last_of(root)
    assert found is not None
    assert found.owner is not None
    return found.owner


def leave(root: Path, **changes: object) -> run_lock.Owner:
    """A lock as another process left it; that of this process with some things changed."""
    with held(root):
        owner = replace(owner_of(root), **{"token": "f" * 32, **changes})
    root.mkdir(exist_ok=True)
    (root / LOCK).write_text(json.dumps(vars(owner)))
    return owner


def refuse(*names: object) -> None:
    raise PermissionError(1, "Operation not permitted")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


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
    leave(tmp_path, born=born(os.getpid()) - 5)
    with held(tmp_path):
        pass


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


def test_an_owner_that_was_taken_for_dead_ends(tmp_path):
    """It stood still for long; another one took the lock over."""
    code = (
        "import sys, time; from pathlib import Path; from tracestill.trainer import run_lock\n"
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
    with pytest.raises(InputError, match=rf"{LOCK}: cannot be read as the lock .*Is a directory.*delete it"), held(tmp_path):
        pass


def until(condition, seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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


def test_it_kills_what_it_started_and_leaves_without_a_word_in_the_directory(tmp_path, ended, monkeypatch):
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
