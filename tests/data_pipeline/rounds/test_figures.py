"""Which ways of round 0 are gone, and what texts of a student's own come to."""

import pytest

from tracestill.data_pipeline.base.schema import write_rows
from tracestill.data_pipeline.rounds.figures import MOST_GONE, SHOWN, Way, gone, traces_of
from tracestill.data_pipeline.rounds.own_figures import READ, TEXTS, figures_of, refreshes_in
from tracestill.data_pipeline.soundness.checkers.chain import Checks


def ways(strategies, right=True, trace="t"):
    return [
        Way(f"q{at}", "solver", right, True, name, name, ["x"], 0, f"question {at}", f"{trace} {name}")
        for at, name in enumerate(strategies)
    ]


def test_ways_that_vanish_are_named_with_how_often_they_were_and_whether_they_are_tried():
    first = ways("aaaaabbbccd") + ways("zz", right=False)
    now = ways("aaaad") + ways("ccbx", right=False)
    found = gone(now, first)
    assert (found["count"], found["of"]) == (2, 4), "what was wrong in round 0 was never there; x is new"
    b, c = found["most"]
    assert (b["strategy"], b["times"], b["tried"]) == ("b", 3, 1)
    assert (c["strategy"], c["times"], c["tried"]) == ("c", 2, 2), "the most frequent first"
    assert b["share"] == pytest.approx(3 / 11)
    assert b["missed_by_chance"] == pytest.approx((8 / 11) ** 5), "of as many right traces"
    assert (b["question"], b["trace"]) == ("question 5", "t b"), "the first one"
    assert gone(first, first) == {"count": 0, "of": 4, "most": []}
    assert traces_of(now, first, 0.2)["gone"] == found


def test_a_trace_without_equations_is_no_way_that_could_vanish():
    first = ways(["", "", "a"])
    found = gone(ways(["b"]), first)
    assert (found["count"], found["of"], found["most"][0]["strategy"]) == (1, 1, "a")
    assert gone([], []) == {"count": 0, "of": 0, "most": []}


def test_so_many_are_named_and_long_examples_are_cut():
    first = ways([f"way {at:02d}" for at in range(30)], trace="long " * SHOWN)
    found = gone(ways(["way 00"]), first)
    assert (found["count"], len(found["most"]), found["most"][0]["strategy"]) == (29, MOST_GONE, "way 01")
    assert len(found["most"][0]["trace"]) == SHOWN + 1
    assert found["most"][0]["trace"].endswith("…")


def text(question, trace, answer="7", correct=True, tokens=9, reason=""):
    return {"question_id": question, "question": "Add 1, 2 and 4.", "gold": "7", "trace": trace, "answer": answer,
            "reason": reason, "correct": correct, "tokens": tokens}  # fmt: skip


ONE, OTHER, FALSE = "1+2=3. 3+4=7.", "4+2=6. 6+1=7.", "1+2=4. 3+4=7."


def test_own_texts_are_looked_at_in_the_first_refresh_and_in_the_last(tmp_path):
    folder = tmp_path / "refreshes"
    unasked = text("c", "", answer=None, correct=False, tokens=0, reason="overlong")
    held = {
        0: [text("a", ONE), text("a", OTHER), text("b", FALSE), text("b", ONE, answer="8", correct=False), unasked],
        4: [text("a", OTHER)] * 2,
        9: [text("a", ONE), text("a", ONE, tokens=19), text("d", ONE, reason="overlong")],
    }
    for number, rows in held.items():
        place = folder / f"{number:06d}" / TEXTS
        place.parent.mkdir(parents=True)
        write_rows(place, rows, READ)
    (folder / "000011").mkdir()  # begun
    found = figures_of(refreshes_in(folder), None, 0.5, Checks(["equations"], "checks"), "student-0")
    first, last = found
    assert [one["refresh"] for one in found] == [0, 9]
    assert (first["traces"], first["right"], first["questions"]) == (4, 2, 2), "asked; right and sound"
    assert first["differ"] == 1 > last["differ"] == 0
    assert (last["differ_same"], last["differ_first"]) == (None, None), "of one question in both"
    assert (last["traces"], last["right"], last["kept"]) == (3, 3, 2), "one became no document"
    assert last["tokens"] == pytest.approx(37 / 3)
    assert last["gone"]["count"] == 1, "beside the first texts"
    reference = ways(["q0+q1=r0 r0+q2=r1"])
    first, last = figures_of(refreshes_in(folder), reference, 0.5, Checks(["equations"], "checks"), "student-0")
    assert (first["gone"]["count"], last["gone"]["count"]) == (0, 0), "beside what is given"
    assert refreshes_in(tmp_path / "nothing") == []
