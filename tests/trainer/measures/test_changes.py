"""Changes of a trace, as texts."""

from __future__ import annotations

import re

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.segmentation import Part
from tracestill.trainer.measures.changes import Change, changes, corrupted, kinds_of, spread, steps_of, swapped

TRACE = "We add the two.\n3 + 4 = 7. So there are 7."
OTHER = "First we look. Then 5 * 5 = 25."
STEPS = ["We add the two.\n", "3 + 4 = 7. ", "So there are 7."]
WAYS = ("cut", "corrupt", "swap", "blank")


def made(**more) -> dict[tuple[str, int], Change]:
    kinds = ["plan", "derive", "prose"]
    found = changes(TRACE, kinds, OTHER, more.get("ways", WAYS), more.get("most"), more.get("draw", 0))
    return {(change.way, change.step): change for change in found}


def test_steps_are_those_of_segmentation() -> None:
    assert steps_of(TRACE) == STEPS
    assert steps_of("") == []


def test_each_way_changes_one_step_and_ends_there() -> None:
    found = made()
    assert len(found) == 5 * 3
    assert found["same", 1] == Change("same", 1, "derive", "We add the two.\n3 + 4 = 7.")
    assert found["cut", 0] == Change("cut", 0, "plan", "", closed=True)
    assert found["cut", 2] == Change("cut", 2, "prose", "We add the two.\n3 + 4 = 7.", closed=True)
    assert found["corrupt", 1].trace == "We add the two.\n3 + 4 = 9."
    assert found["corrupt", 0].trace is None  # it holds no number
    assert found["swap", 0].trace == "First we look.\n"
    assert found["swap", 2].trace == "We add the two.\n3 + 4 = 7. Then 5 * 5 = 25."
    assert found["blank", 0].trace == "...\n"
    assert found["blank", 1].trace == "We add the two.\n3 + 4 = 7.".replace("3 + 4 = 7.", "...")


def test_only_the_ways_and_steps_that_are_asked_for() -> None:
    found = made(ways=("cut",), most=2)
    assert set(found) == {("same", 0), ("cut", 0), ("same", 2), ("cut", 2)}


def test_a_number_always_changes_and_stays_one() -> None:
    for draw in range(30):
        changed = corrupted("12 and 1,309 apples", draw)
        assert re.fullmatch(r"12 and 1,30[0-8] apples", changed), changed
    assert len({corrupted("7", draw) for draw in range(9)}) == 9
    assert corrupted("seven", 0) is None


def test_the_same_step_is_not_swapped() -> None:
    assert swapped("So.\n", "So. ") is None
    assert swapped("So.", "") is None
    assert swapped("So.\n", "Then.  ") == "Then.\n"


def test_steps_are_spread_from_the_first_to_the_last() -> None:
    assert spread(4, None) == spread(4, 6) == [0, 1, 2, 3]
    assert spread(10, 4) == [0, 3, 6, 9]
    assert spread(5, 1) == [0]


def test_a_step_has_the_kind_of_most_of_its_characters_below_trace() -> None:
    ends = [len(STEPS[0]), len(STEPS[0]) + 8, len(STEPS[0]) + 10, len(TRACE)]
    parts = [Part(kind, end, "") for kind, end in zip(["plan", "expression", "result", "prose"], ends, strict=True)]
    assert kinds_of(TRACE, parts, Kinds()) == ["plan", "derive", "prose"]
    assert kinds_of(TRACE, [Part("mine", len(TRACE), "")], Kinds.with_extra({"mine": "check"})) == ["check"] * 3
    assert kinds_of(TRACE, [], Kinds()) == [""] * 3
