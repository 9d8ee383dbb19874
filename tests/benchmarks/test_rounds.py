"""benchmarks/rounds.py: its bars on made-up rounds."""

import math

import pytest
from real_data import benchmark


@pytest.fixture(scope="module")
def rounds():
    with benchmark("rounds") as script:
        yield script


def row(number, apart, covered=1.0):
    traces = {"coverage": covered, "coverage_by_chance": 1.0, "coverage_error": 0.01}
    told = {"accuracy": 0.8, "accuracy_low": 0.7, "accuracy_high": 0.9, "questions": 50}
    return {"round": number, "traces": traces, "apart": {"share": apart}, **told, "test": told}


def holds(rounds, **arms):
    """Which claims hold of one seed; an arm is as often apart in each of its rounds."""
    runs = {"0": {arm: [row(at, *each) for at, each in enumerate(found)] for arm, found in arms.items()}}
    return {each["name"]: each["holds"] for each in rounds.claims_of(runs, 2)}


GONE, STAYS = [(0.6,), (0.3, 0.3), (0.1, 0.1)], [(0.6,), (0.6,), (0.55,)]


def test_bars(rounds):
    assert all(holds(rounds, bare=GONE, filtered=GONE, remedies=STAYS).values())
    assert not any(held for name, held in holds(rounds, bare=STAYS, filtered=STAYS, remedies=GONE).items()
                   if "accuracy" not in name)  # fmt: skip


def test_an_earlier_round_does_not_speak_for_the_last_one(rounds):
    found = holds(rounds, bare=GONE, filtered=GONE, remedies=STAYS[:1])
    assert not any(held for name, held in found.items() if "remedies" in name)
    assert math.isnan(rounds.of_last([row(0, 0.6)], 2, rounds.apart))


def test_a_student_of_one_way_holds_no_bar_and_ends_nothing(rounds):
    found = holds(rounds, bare=[(0.0,)] * 3, filtered=GONE, remedies=STAYS)
    assert not found["right samples differ, last round over round 0, bare, seed 0"]
