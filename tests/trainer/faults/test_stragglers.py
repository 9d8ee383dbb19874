"""Which rank is slow, by the phases that it tells; and which phases may tell it: those in which it waits for nobody."""

from types import SimpleNamespace

import pytest
import torch

from tracestill.trainer.faults import stragglers as module
from tracestill.trainer.faults.stragglers import Stragglers, phases_alone, straggler
from tracestill.trainer.ranks.phases import PHASES, Phases
from tracestill.trainer.recipe.settings import TrainConfig


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"zero": 2}, ("data", "forward")),
        ({"zero": 3}, ("data",)),
        ({"zero": 2, "sequence_parallel": 2, "ranks": 2}, ("data",)),
    ],
)
def test_a_phase_with_a_collective_in_it_tells_nothing(keys, expected):
    assert phases_alone(TrainConfig(steps=1, **keys), torch.device("cpu")) == expected


def test_the_host_of_a_gpu_sees_its_data_only():
    assert phases_alone(TrainConfig(steps=1, zero=0), torch.device("cuda")) == ("data",)


def test_seconds_count_for_the_phase_that_they_passed_in(monkeypatch):
    now = 10.0
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: now))
    phases, stragglers = Phases(), Stragglers()
    phases.subscribe(stragglers.phase)
    found = []
    for entered in ((("data", 11.0), ("forward", 13.0), ("data", 18.0), ("save", 18.5)), (("data", 20.5),), ()):
        for name, now in entered:  # noqa: B007
            phases.enter(name, 3)
        found.append({name: seconds for name, seconds in stragglers.take().items() if seconds})
    assert found == [{"start": 1.0, "data": 2.5, "forward": 5.0}, {"save": 2.0}, {}]


def test_every_listener_hears_of_every_phase_in_order():
    heard, phases = [], Phases()
    for listener in "ab":
        phases.subscribe(lambda name, step, listener=listener: heard.append((listener, name, step)))
    phases.enter("data", 3)
    phases.enter("forward", 4)
    assert heard == [("a", "data", 3), ("b", "data", 3), ("a", "forward", 4), ("b", "forward", 4)]


def table(**columns):
    found = torch.zeros(len(next(iter(columns.values()))), len(PHASES), dtype=torch.float64)
    for name, values in columns.items():
        found[:, PHASES.index(name)] = torch.tensor(values, dtype=torch.float64)
    return found


def test_the_slowest_rank_is_named_if_it_costs_the_others_enough():
    slow = table(data=[1.0, 1.2, 4.0], backward=[9.0, 8.8, 6.0])
    assert straggler(slow, ("data", "forward")) == {"rank": 2, "phase": "data", "seconds": 4.0, "usual": 1.2}
    assert straggler(slow, ("forward",)) is None, "only the phases asked for"
    assert straggler(table(data=[1.0, 1.49], backward=[2.0, 2.0]), ("data",)) is None, "not 1.5 times the others"
    assert straggler(table(data=[1.0, 2.0], backward=[20.0, 19.0]), ("data",)) is None, "under 5 % of the time"
    two = straggler(table(data=[1.0, 3.0], forward=[9.0, 2.0], backward=[9.0, 9.0]), ("data", "forward"))
    assert two == {"rank": 0, "phase": "forward", "seconds": 9.0, "usual": 2.0}, "what costs most"
