"""How far a training is, told many times in a step; and the time that is left."""

import json
import math

import pytest

from tracestill.trainer.metrics import headway
from tracestill.trainer.metrics.headway import PROGRESS, Estimate, Headway, Teller, read_headway, spell, until_saved


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(headway.time, "monotonic", made)
    return made


def test_the_time_left_follows_the_last_units_and_runs_down():
    clock = Clock()
    estimate = Estimate(clock)
    estimate.add(4000)  # where a training goes on: no pace
    assert estimate.left(10_000) is None
    clock.now += 10
    estimate.add(4100)
    assert (estimate.rate, estimate.left(10_000)) == (10.0, 590.0)
    clock.now += 7
    estimate.add(4100)
    assert estimate.left(10_000) == 583.0, "nothing came, but time passed"
    assert estimate.left(4100) == 0.0
    clock.now += 590
    assert estimate.left(10_000) is None, "it takes longer than was thought"
    assert estimate.left(4100) == 0.0


def test_a_window_that_never_ends_takes_the_pace_since_the_beginning():
    clock, found = Clock(), {}
    for name, window in (("last", headway.WINDOW_SECONDS), ("all", math.inf)):
        clock.now, estimate = 100.0, Estimate(clock, window)
        estimate.add(0)
        clock.now += 300  # until the first
        for done in range(10):
            clock.now += 1
            estimate.add(0.1 * done)
        found[name] = estimate.left(4)
    assert found["last"] == pytest.approx(31)
    assert found["all"] == pytest.approx(310 * 3.1 / 0.9)


def test_a_pace_that_changes_is_noticed():
    clock = Clock()
    estimate = Estimate(clock)
    for _ in range(100):
        clock.now += 10
        estimate.add(estimate.points[-1][1] + 10 if estimate.points else 0)
    assert estimate.rate == 1.0
    for _ in range(20):
        clock.now += 10
        estimate.add(estimate.points[-1][1] + 40)
    assert estimate.rate == 4.0
    for _ in range(headway.LEAST_POINTS):  # seldom, and still a pace
        clock.now += 500
        estimate.add(estimate.points[-1][1] + 1000)
    assert estimate.rate == 2.0
    estimate.add(5)
    assert estimate.rate is None, "other work has begun"


def teller(path, said, **changes):
    more = {"step": 10, "steps": 40, "accumulation": 4, "tokens_a_step": 1000.0, "say": said.append, **changes}
    return Teller(path / PROGRESS, **more)


def test_the_file_moves_with_each_micro_step_and_at_most_once_a_second(tmp_path, clock):
    said = []
    made = teller(tmp_path, said)
    assert read_headway(tmp_path) == Headway(10, 40, 0, 4, 10_000, 40_000, None, None, None)
    clock.now += 0.4
    made.end_micro()
    assert read_headway(tmp_path).micro == 0, "written a moment ago"
    clock.now += 5
    made.end_micro()
    found = read_headway(tmp_path)
    assert (found.micro, found.tokens, found.rest_of_step) == (2, 10_500, None)
    clock.now += 4.6
    made.end_step(save_seconds=3.5, saved=10)
    found = read_headway(tmp_path)
    assert (found.step, found.micro, found.step_seconds, found.save_seconds, found.saved) == (11, 0, 10.0, 3.5, 10)
    clock.now += 5
    made.end_micro()
    assert read_headway(tmp_path).rest_of_step == 7.5
    assert said == []


def test_a_long_step_is_told_on_the_console(tmp_path, clock):
    said = []
    made = teller(tmp_path, said)
    for _ in range(3):
        clock.now += 25
        made.end_micro()
    assert said == [
        "step 10/40, micro-step 3/4 of the next; 10,750 of 40,000 tokens, 48m 45s left"  # 10 tokens/s
    ]


def test_why_it_stops_is_said_once_and_what_that_takes(tmp_path, clock):
    said = []
    made = teller(tmp_path, said)
    clock.now += 20
    made.end_step(save_seconds=None, saved=None)
    for _ in range(2):
        made.end_micro("Ctrl-C")
    assert said == ["Ctrl-C: saves after this step and stops; about 15s of the step are left, no save was timed yet"]
    now = read_headway(tmp_path)
    assert now is not None
    after = Headway(*(2, 9, 0, 1), *(1, 2), *(None, 61.0, 1))
    assert until_saved(after) == "how long the first step takes is not known, the last save took 1m 01s"


def test_other_ranks_and_a_full_disk_are_silent(tmp_path, clock):
    said = []
    teller(tmp_path, said, write=False).end_micro()
    assert list(tmp_path.iterdir()) == []
    teller(tmp_path / "absent", said).end_micro()
    assert read_headway(tmp_path / "absent") is None
    (tmp_path / PROGRESS).write_text(json.dumps({"step": 3}))
    assert read_headway(tmp_path) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (59.6, "1m 00s"), (200, "3m 20s"), (7500, "2h 05m"), (86_400 * 3 + 4 * 3600, "3d 04h")],
)
def test_durations(seconds, text):
    assert spell(seconds) == text
