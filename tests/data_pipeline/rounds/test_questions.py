"""Which questions a student is asked when: all once before one comes again, in an order of each pass's own."""

from __future__ import annotations

from tracestill.data_pipeline.rounds.questions import drawn


def test_all_come_once_before_one_comes_again():
    of = list(range(7))
    row = drawn(of, 0, 28, seed=3)
    passes = [row[at : at + 7] for at in range(0, 28, 7)]
    assert all(sorted(each) == of for each in passes)
    assert len({tuple(each) for each in passes}) == 4
    assert [drawn(of, at, 5, seed=3) for at in (0, 5, 10)] == [row[:5], row[5:10], row[10:15]]
    assert drawn(of, 0, 7, seed=4) != row[:7]
