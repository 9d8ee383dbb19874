"""Ranks that work each for itself meet now and then, and leave together."""

from __future__ import annotations

import pytest
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.faults import leaving
from tracestill.trainer.faults.leaving import Left, meetings
from tracestill.trainer.ranks import collectives
from tracestill.trainer.ranks.collectives import OtherFailed, together


def beside(monkeypatch, *others):
    """At each meeting what another rank says: whether it was asked to stop, works, how much it has done, and whether it
    has failed."""
    told, waiting = [], [(*other, 0)[:4] for other in others]

    def exchange(value):
        told.append(value.tolist())
        return [value, torch.tensor(waiting.pop(0), dtype=torch.float64)]

    monkeypatch.setattr(leaving, "exchange", exchange)
    monkeypatch.setattr(leaving, "MEET_SECONDS", 0.0)
    return told, waiting


def test_a_rank_that_has_done_its_share_meets_until_all_have(monkeypatch):
    told, waiting = beside(monkeypatch, (0, 1, 10), (0, 1, 20), (0, 0, 30))
    sums = []
    with meetings(lambda: "", sums.append) as ranks:
        ranks.tick(5)
    assert told == [[0, 1, 5, 0], [0, 0, 5, 0], [0, 0, 5, 0]]
    assert (sums, waiting) == ([15, 25, 35], [])


@pytest.mark.parametrize(("asked", "other"), [("SIGTERM", (0, 0, 9)), ("", (1, 1, 9)), ("", (1, 0, 9))])
def test_a_request_to_either_rank_ends_the_work_of_both(monkeypatch, asked, other):
    beside(monkeypatch, other)
    with pytest.raises(Left), meetings(lambda: asked) as ranks:
        ranks.tick(1)


def test_work_that_all_have_done_is_not_thrown_away(monkeypatch):
    beside(monkeypatch, (1, 0, 9))
    with meetings(lambda: "Ctrl-C"):
        pass


def test_a_rank_that_fails_says_so_at_the_next_meeting(monkeypatch):
    told, waiting = beside(monkeypatch, (0, 1, 1))
    with pytest.raises(InputError, match="bad"), meetings(lambda: ""):
        raise InputError("bad")
    assert (told, waiting) == ([[0, 0, 0, 1]], [])
    beside(monkeypatch)
    with pytest.raises(ValueError, match="the watchdog's"), meetings(lambda: ""):
        raise ValueError("the watchdog's to tell of")


def test_ranks_leave_their_work_where_another_one_has_failed_and_leave_the_telling_to_it(monkeypatch):
    told, waiting = beside(monkeypatch, (0, 0, 1, 1))
    with pytest.raises(OtherFailed), meetings(lambda: "") as ranks:
        ranks.tick(1)
    assert (told, waiting) == ([[0, 1, 1, 0]], [])
    beside(monkeypatch, (0, 0, 1, 1))
    with pytest.raises(OtherFailed), meetings(lambda: ""):
        pass
    beside(monkeypatch, (1, 1, 1, 1))
    with pytest.raises(Left), meetings(lambda: ""):
        pass

    def left() -> None:
        raise OtherFailed

    why = bytes([1]) + b"no room on its disk"
    monkeypatch.setattr(collectives, "exchange", lambda own, group: [own, torch.tensor(list(why.ljust(512, b"\0")))])
    with pytest.raises(InputError, match=r"cannot work \(rank 1: no room on its disk\)"):
        together(left, "cannot work")


def test_ranks_meet_no_more_often_than_they_need(monkeypatch):
    told, _ = beside(monkeypatch, (0, 0, 0))
    monkeypatch.setattr(leaving, "MEET_SECONDS", 60.0)
    with meetings(lambda: "") as ranks:
        for done in range(100):
            ranks.tick(done)
    assert told == [[0, 0, 99, 0]]


def test_a_rank_that_had_failed_before_all_leave_does_not_forget_why(monkeypatch):
    beside(monkeypatch, (1, 1, 1))
    with pytest.raises(Left) as found, meetings(lambda: ""):
        raise InputError("no room")
    assert str(found.value.__cause__) == "no room"
    beside(monkeypatch, (1, 1, 1))
    with pytest.raises(Left) as found, meetings(lambda: "") as ranks:
        ranks.tick(1)
    assert found.value.__cause__ is None


def test_ranks_in_step_meet_before_each_piece_alone_and_go_along_with_who_works(monkeypatch):
    told, waiting = beside(monkeypatch, (0, 1, 1), (0, 1, 2), (0, 1, 3), (0, 0, 3))
    done = []
    with meetings(lambda: "", along=lambda: done.append("along")) as ranks:
        assert ranks.meet(works=True)
        done.append("own")
        ranks.tick(7)
    assert told == [[0, 1, 0, 0], *[[0, 0, 7, 0]] * 3], "no meeting by the clock"
    assert (done, waiting) == (["own", "along", "along"], [])


def test_in_step_a_rank_that_fails_says_so_before_the_next_piece_and_nobody_goes_on(monkeypatch):
    told, waiting = beside(monkeypatch, (0, 1, 1))
    done = []
    with pytest.raises(InputError, match="bad"), meetings(lambda: "", along=lambda: done.append("along")):
        raise InputError("bad")
    assert (told, waiting, done) == ([[0, 0, 0, 1]], [], [])
    beside(monkeypatch, (0, 0, 2, 1))
    with pytest.raises(OtherFailed), meetings(lambda: "", along=lambda: done.append("along")) as ranks:
        ranks.meet(works=True)
    assert done == []
