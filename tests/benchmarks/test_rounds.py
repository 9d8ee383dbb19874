"""benchmarks/rounds.py: its bars on made-up rounds."""

import json
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


def alone(rounds, ruled=2, **arms):
    """Which claims hold of single remedies of one seed, where `filtered` would be ended before round 2."""
    filtered = [row(0, 0.6), row(1, 0.3), row(2, 0.1)]
    for each, now in zip(filtered, (0.5, 0.5, 0.1), strict=True):
        each["traces"] |= {"differ_same": now, "differ_first": 0.5, "differ_error": 0.01}
    every = {name.replace("_", " "): [row(at, *each) for at, each in enumerate(found)] for name, found in arms.items()}
    found = rounds.claims_of_alone({"0": {**every, "ruled": filtered[:ruled]}}, {"0": {"filtered": filtered}}, 2)
    return {each["name"]: each["holds"] for each in found}


def test_bars_of_single_remedies(rounds):
    kept, lost = {"only_keep": STAYS, "only_temperature": STAYS}, {"only_unsolved": GONE, "only_floor": GONE}
    assert all(alone(rounds, **kept, **lost).values())
    wrong = alone(rounds, ruled=3, **dict.fromkeys(kept, GONE), **dict.fromkeys(lost, STAYS))
    assert len(wrong) == 5
    assert not any(wrong.values())


def test_what_a_file_holds_is_kept_unless_it_was_made_otherwise(rounds, tmp_path):
    path = tmp_path / "rounds.json"
    measured = {"0": "arms"}, {"1": "remedies"}
    held = {
        "settings": rounds.SHORT,
        "arms": {**rounds.ARMS, "only keep": []},
        "runs": measured[0],
        "alone": measured[1],
    }
    for settings, found in ((held, measured), ({**held, "settings": []}, ({}, {})), ({**held, "arms": {}}, ({}, {}))):
        path.write_text(json.dumps(settings))
        assert rounds.held_in(path) == found
    assert rounds.held_in(tmp_path / "none.json") == rounds.held_in(None) == ({}, {})
