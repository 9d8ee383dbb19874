import itertools

import pytest

from tracestill.launch.bench import calibrate as module
from tracestill.launch.bench.calibrate import calibrate
from tracestill.trainer.metrics.hardware import Link
from tracestill.trainer.timing.step_time import PASSES, Machine, Task, even, forecast

LINKS = dict.fromkeys(PASSES, Link(1e-4, 1e9))
TRUE = Machine(5e10, 4e9, LINKS, LINKS, 4, cores=2, data=0.01, fixed=0.02, slower={0: 1.0, 2: 1.05, 3: 1.4})
PARAMETERS, FLOPS = 10_000_000, 2e11


def case(ranks, zero, packs=4, *, recompute=False, **changes):
    """What the bench would report of a machine that is exactly TRUE."""
    steps = -(-packs // ranks)
    flops = FLOPS * packs * (4 / 3 if recompute else 1)
    times = forecast(Task(PARAMETERS, even(flops, steps, ranks), 1.0, zero=zero, parameter_bytes=4), TRUE)
    split = {"forward": times.compute / 3, "backward": times.compute * 2 / 3, "data": times.data}
    return {
        **{"ranks": ranks, "nodes": 1, "zero": zero, "capacity": 1024, "packs_per_step": packs, "device": "cpu"},
        **{"recompute": recompute, "accumulation": steps, "parameters": PARAMETERS, "padding": 0.0},
        **{"flops_per_step": FLOPS * packs, "trained_parameters": PARAMETERS},
        "split": {**split, "optimizer": times.optimizer, "communication": times.communication},
        **changes,
    }


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(module, "usable_cores", lambda: 2)


def test_a_machine_is_found_again_from_its_cases():
    cases = [case(ranks, zero) for ranks, zero in itertools.product((1, 2), (0, 2, 3))]
    found = calibrate(cases, LINKS, LINKS, 2)
    assert found.rate == pytest.approx(TRUE.rate)
    assert found.update == pytest.approx(TRUE.update)
    assert found.fixed == pytest.approx(TRUE.fixed)
    assert found.data == pytest.approx(TRUE.data)
    assert found.cores == 2
    assert found.slower == pytest.approx({0: 1.0, 2: 1.05, 3: 1.4})
    small = case(2, 3, capacity=64)  # less efficient, for a reason of its own
    small["split"] = {name: 3 * seconds for name, seconds in small["split"].items()}
    slow = dict.fromkeys(PASSES, Link(1e-2, 1e8))
    again = calibrate([*cases, small, case(4, 0)], LINKS, LINKS, 2, crowded=(2.0, slow))
    assert again.crowded == (2.0, slow)
    assert again.slower == pytest.approx(found.slower), "only cases that differ in nothing else are compared"


BY_HAND = {
    **{"ranks": 2, "nodes": 1, "zero": 0, "capacity": 1024, "packs_per_step": 4, "device": "cpu", "recompute": False},
    **{"accumulation": 2, "parameters": 10_000_000, "trained_parameters": 10_000_000, "padding": 0.0},
    "flops_per_step": 8e11,
}


def split(forward, backward, optimizer, data=0.02):
    return {"forward": forward, "backward": backward, "data": data, "optimizer": optimizer, "communication": 0.3}


def test_rates_are_those_that_one_finds_by_hand():
    """Two ranks do 4e11 FLOPs each in 3 + 5 s; AdamW passes 28 bytes an element: 280 MB in 0.07 s and 0.02 s besides,
    or its half at ZeRO 2, whose passes take 5 % longer. Four ranks on two cores take a quarter longer for the same."""
    cases = [
        {**BY_HAND, "split": split(3.0, 5.0, 0.09)},
        {**BY_HAND, "zero": 2, "split": split(3.2, 5.2, 0.055)},
        {**BY_HAND, "recompute": True, "split": split(4.0, 20 / 3, 0.09)},
        {**BY_HAND, "padding": 0.2, "flops_per_step": 6.4e11, "split": split(3.5, 4.5, 0.09)},
    ]
    found = calibrate(cases, LINKS, LINKS, 4)
    assert (found.rate, found.update, found.fixed, found.data) == pytest.approx((5e10, 4e9, 0.02, 0.01))
    assert found.slower == pytest.approx({0: 1.0, 2: 1.05})
    assert (found.devices, found.cores, found.crowding) == (4, 2, 1.0)
    crowded = {**BY_HAND, "ranks": 4, "accumulation": 1, "split": split(4.0, 6.0, 0.09)}
    assert calibrate([*cases, crowded], LINKS, LINKS, 4).crowding == pytest.approx(1.25)
    alone = calibrate(cases[:1], LINKS, LINKS, 4)
    assert (alone.update, alone.fixed) == pytest.approx((280e6 / 0.09, 0.0)), "one size tells no fixed part"


def test_recomputation_padding_and_ranks_beyond_the_cores_do_not_mislead_it():
    cases = [case(2, 0, recompute=True), case(4, 0), case(1, 0)]
    padded = case(2, 0, padding=0.5)
    padded["flops_per_step"] /= 2  # half of what was computed was padding
    for given in (cases, [padded]):
        assert calibrate(given, LINKS, LINKS, 2).rate == pytest.approx(TRUE.rate)


def test_crowding_is_what_more_ranks_than_cores_cost():
    crowded = case(4, 0)
    crowded["split"] = {name: 1.25 * seconds for name, seconds in crowded["split"].items()}
    assert calibrate([case(2, 0), crowded], LINKS, LINKS, 2).crowding == pytest.approx(1.25)
    assert calibrate([case(2, 0), case(4, 0)], LINKS, LINKS, 2).crowding == pytest.approx(1.0)


def test_one_case_is_enough():
    found = calibrate([case(2, 2)], LINKS, LINKS, 2)
    assert found.slower == {2: 1.0}
    assert found.fixed == 0.0
    assert found.rate == pytest.approx(TRUE.rate / 1.05)


def test_the_optimizers_rate_is_of_the_parameters_that_learn():
    """A tenth of the student learns, and is updated in a tenth of the time."""
    small = case(2, 0, trained_parameters=PARAMETERS // 10)
    small["split"]["optimizer"] = PARAMETERS / 10 * 28 / TRUE.update
    assert calibrate([small], LINKS, LINKS, 2).update == pytest.approx(TRUE.update)


def test_recomputation_costs_what_it_costs_of_this_student():
    """With frozen matrices the backward pass costs as much as the forward pass, so recomputing costs half as much."""
    plain, again = case(2, 0), case(2, 0, recompute=True)
    for part in ("forward", "backward"):
        again["split"][part] = plain["split"][part] * 1.5
    assert calibrate([again], LINKS, LINKS, 2, again=1.5).rate == pytest.approx(
        calibrate([plain], LINKS, LINKS, 2).rate
    )
