"""Steps made ready one ahead are those that would have been made when they begin."""

import numpy as np
import pytest
import torch
from normaliser_cases import KINDS, write_store

from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.batches.prefetch import Prefetch
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig, make_weighting

STEPS = 9  # over three epochs


class Counting(SpanWeighting):
    """Weighs by how many steps have ended, as a weighting that adapts does."""

    ended = 0

    def kinds(self, step):
        return super().kinds(step) * np.float32(1 + self.ended)

    def tokens(self, document, step):
        return np.full(len(document.tokens), 1.0 / (1 + self.ended + step), np.float32)

    def end_step(self):
        self.ended += 1


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "tokens.arrow")


def batches(store, weighting, normaliser="weights"):
    config = PlanConfig(capacity=96, packs_per_step=3, group=3)
    plans = [make_plan(store.lengths, config, seed=0, epoch=epoch) for epoch in range(4)]
    return Batches(
        *(store, plans.__getitem__, weighting), normaliser=normaliser, rank=0, ranks=1, pad_id=0,
        device=torch.device("cpu"),
    )  # fmt: skip


WEIGHTINGS = {
    "schedule": {"weights": {"prompt": 0, "trace": {"from": 0, "to": 2, "steps": 6}}},
    "random_drop": {"use": "random_drop", "options": {"keep": 0.5}},
    "steps_last_first": {"use": "steps_last_first", "options": {"share": {"from": 0, "to": 1, "steps": 6}}},
    "excess_loss": {"use": "excess_loss", "options": {"reference": "x", "share": 0.4}},
    "excess_control": {"use": "excess_loss", "options": {"share": 0.4, "control": True}},
    "counting": None,
}


def made(name):
    if WEIGHTINGS[name] is None:
        return Counting(WeightingConfig(), KINDS)
    return make_weighting(WeightingConfig(**WEIGHTINGS[name]), KINDS, seed=5)


@pytest.mark.parametrize("normaliser", ["weights", "spans"])
@pytest.mark.parametrize("name", WEIGHTINGS)
def test_a_step_made_ahead_is_the_step_made_on_demand(store, name, normaliser):
    one, other = made(name), made(name)
    plain, early = batches(store, one, normaliser), Prefetch(batches(store, other, normaliser), STEPS)
    different = 0
    for step in range(STEPS):
        expected, found = plain.step(step), early.step(step)
        early.prepare(step + 1)
        assert (found.epoch, found.weight_sum) == (expected.epoch, expected.weight_sum)
        assert found.documents.tolist() == expected.documents.tolist()
        for a, b in zip(found.micro, expected.micro, strict=True):
            assert torch.equal(torch.as_tensor(a.scale), torch.as_tensor(b.scale))
            for key, value in vars(b.packed).items():
                held = getattr(a.packed, key)
                assert held.equal(value) if isinstance(value, torch.Tensor) else held == value, key
        one.end_step()
        other.end_step()
        different += early.held is None
    assert different == (STEPS if name in ("excess_loss", "excess_control", "counting") else 1), (
        "who keeps count is asked after the step's end"
    )


def test_nothing_is_made_past_the_last_step_nor_twice_nor_further_ahead(store):
    of = batches(store, made("schedule"))
    asked, plain = [], of.step
    of.step = lambda step: asked.append(step) or plain(step)
    early = Prefetch(of, STEPS)
    for step in range(4, STEPS):  # as after a resume
        early.step(step)
        assert early.held is None, "the step in hand is not held as well"
        early.prepare(step + 1)
        assert asked[-1] <= step + 1
    assert asked == [*range(4, STEPS)]
    assert early.held is None


def test_another_step_than_the_one_made_ready_is_made_anew(store):
    early = Prefetch(batches(store, made("schedule")), STEPS)
    early.prepare(1)
    assert early.step(2).documents.tolist() == batches(store, made("schedule")).step(2).documents.tolist()


def test_waiting_counts_only_what_no_device_hides(store):
    early = Prefetch(batches(store, made("random_drop")), STEPS)
    early.prepare(1)
    assert early.waited > 0, "on a CPU the loop waits for the packing"
    early = Prefetch(batches(store, made("random_drop")), STEPS)
    early.asynchronous = True
    early.prepare(1)
    assert early.waited == 0
