"""The same step through each normaliser, by the trainer's own path and by hand: loss, and w * c of every target."""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import torch
from distributed_support import run_workers
from normaliser_cases import (
    KINDS,
    NORMALISERS,
    batches,
    by_hand,
    factors_of,
    loss_of,
    losses_of,
    plan_of,
    weighting,
    weights_of,
    write_store,
)

from tracestill.trainer.metrics.telemetry import Meter
from tracestill.trainer.weighting import SpanWeighting, TargetWeights, WeightingConfig
from tracestill.trainer.weighting.normaliser import ALL, Counted, Normaliser
from tracestill.trainer.weighting.normaliser import NORMALISERS as NORMALISERS_OF

PAIRS = list(product(NORMALISERS, (False, True)))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store") / "tokens.arrow")


def test_the_step_is_one_that_tells_normalisers_apart(store):
    plan = plan_of(store, single=False)
    assert plan.n_steps == 1
    assert plan.n_packs < len(store)
    assert np.diff(plan.pack_offsets).max() > 2
    losses = sorted(by_hand(store, name, by_token=flag)[1] for name, flag in PAIRS)
    assert min(b / a for a, b in pairwise(losses)) > 1.0005


@pytest.mark.parametrize(("normaliser", "by_token"), PAIRS)
@pytest.mark.parametrize("single", [False, True], ids=["packed", "alone"])
def test_loss_and_factors_are_those_by_hand(store, normaliser, by_token, single):
    step = batches(store, normaliser, by_token=by_token, single=single).step(0)
    factors, loss = by_hand(store, normaliser, by_token=by_token)
    found = factors_of(step.micro, store)
    assert sorted(found) == list(range(len(store)))
    for document, expected in factors.items():
        np.testing.assert_allclose(found[document], expected, rtol=3e-7, atol=0)
    assert sum(loss_of(micro, torch.float64) for micro in step.micro) == pytest.approx(loss, rel=2e-7)
    assert sum(loss_of(micro, torch.float32) for micro in step.micro) == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize(("normaliser", "by_token"), PAIRS)
def test_the_log_tells_the_sum_of_w_times_c_of_each_kind(store, normaliser, by_token):
    """One unit with all normalisers: what the loss would be if every target cost one nat."""
    meter = Meter(KINDS, torch.device("cpu"))
    for _ in range(3):  # steps alike
        for micro in batches(store, normaliser, by_token=by_token, single=False).step(0).micro:
            loss, statistics = losses_of(micro, torch.float32)
            meter.add(statistics)
        meter.end_step(loss)
    found = meter.read()["kinds"]
    factors, loss = by_hand(store, normaliser, by_token=by_token)
    expected = np.zeros(len(KINDS))
    for document, of_targets in factors.items():
        np.add.at(expected, store.kinds(document)[1:], of_targets)
    assert expected.sum() == pytest.approx(1) or normaliser == "tokens"
    for kind, name in enumerate(KINDS.names):
        assert found.get(name, {"weight": 0.0})["weight"] == pytest.approx(expected[kind], rel=1e-6), name
    assert sum(row["share"] for row in found.values()) == pytest.approx(1)


def test_a_normaliser_of_ones_own_is_one_entry(store, monkeypatch):
    """c = 1 / sqrt(sum of w): reaches every target, the preview's shares, and a recipe's choices."""
    of = Normaliser("roots", "the root of the sum of weights", lambda of: of.weight, lambda sums, _: sums**-0.5)
    monkeypatch.setitem(NORMALISERS_OF, "roots", of)
    factors, _ = by_hand(store, "weights", by_token=True)
    raw = TargetWeights(store, weighting(by_token=True), "tokens")
    total = raw.of_pack(np.arange(len(store)), 0).counted.weight
    step = batches(store, "roots", by_token=True, single=False).step(0)
    for document, found in factors_of(step.micro, store).items():
        np.testing.assert_allclose(found, factors[document] * total**0.5, rtol=3e-7, atol=0)
    sums, of_loss = TargetWeights(store, weighting(by_token=True), "roots").of_step(np.arange(len(store)), 0)
    np.testing.assert_allclose(of_loss, sums / total**0.5, rtol=1e-12)
    assert WeightingConfig.model_fields["normaliser"].annotation.__args__ == tuple(
        normaliser.name for normaliser in ALL
    )


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("ranks", [2, 3, 4, 16])
def test_ranks_share_a_step_without_talking(store, normaliser, ranks):
    _, loss = by_hand(store, normaliser, by_token=False)
    steps = [
        batches(store, normaliser, by_token=False, single=False, rank=r, ranks=ranks).step(0) for r in range(ranks)
    ]
    assert len({len(step.micro) for step in steps}) == 1
    assert len({step.weight_sum for step in steps}) == 1
    assert len({str(micro.scale) for step in steps for micro in step.micro}) == 1
    total = sum(loss_of(micro, torch.float32) for step in steps for micro in step.micro)
    assert total == pytest.approx(loss, rel=1e-6)


def test_the_sum_of_weights_counts_every_target_once():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 50, (7, 8)).astype(np.int32)
    records = rng.random(7).astype(np.float32)
    values = rng.random(8).astype(np.float32)
    expected = sum(
        float(values[k]) * float(records[d]) for d in range(7) for k in range(8) for _ in range(int(counts[d, k]))
    )
    assert Counted(counts, counts, records, values).weight == pytest.approx(expected, rel=1e-12)
    assert Counted(counts[:0], counts[:0], records[:0], values).weight == 0.0


@pytest.mark.parametrize(("normaliser", "by_token"), PAIRS)
def test_a_step_without_weight_has_c_zero_and_says_so(store, normaliser, by_token, monkeypatch):
    monkeypatch.setattr(SpanWeighting, "kinds", lambda self, step: np.zeros(len(KINDS), np.float32))
    step = batches(store, normaliser, by_token=by_token, single=False).step(0)
    assert step.weight_sum == (None if by_token else 0.0)
    assert sum(loss_of(micro, torch.float32) for micro in step.micro) == 0.0
    assert not any(weights_of(micro).any() for micro in step.micro)


def test_a_weighting_that_reads_the_model_leaves_the_decision_to_the_gradient(store):
    of = batches(store, "weights", by_token=False, single=False)
    of.weights.weighting.dynamic = lambda nll, p, entropy: p
    assert of.step(0).weight_sum is None, "its factors may all be zero"


def test_a_schedule_reaches_the_step(store):
    falling = {"from": 1, "to": 0, "steps": 1}
    of = batches(store, "weights", by_token=False, single=False)
    of.weights.weighting = SpanWeighting(WeightingConfig(weights={"prompt": 0, "trace": falling}), KINDS)
    trace = [KINDS.id(name) for name in KINDS.members("trace")]
    for step, weighs in ((0, True), (1, False), (2, False)):
        rows = [micro.packed for micro in of.step(step).micro]
        kinds = np.concatenate([row.kinds[row.loss_weight != 0].numpy() for row in rows])
        assert bool(np.isin(kinds, trace).any()) is weighs
        assert np.isin(kinds, trace, invert=True).any()


@pytest.fixture(scope="module")
def three_ranks(store, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "result.json"
    run_workers(Path(__file__).with_name("weighting_worker.py"), store.path, out, ranks=3)
    return json.loads(out.read_text())


@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_token_weights_of_other_ranks_reach_c_by_one_all_reduce(store, three_ranks, normaliser):
    found = three_ranks[normaliser]
    factors, loss = by_hand(store, normaliser, by_token=True)
    assert found["loss"] == pytest.approx(loss, rel=1e-6)
    assert len({scale for scales in found["scales"] for scale in scales}) == 1
    assert found["weight_sum"] is None
    assert len(found["factors"]) == len(store)
    for document, expected in factors.items():
        np.testing.assert_allclose(found["factors"][str(document)], expected, rtol=3e-7, atol=0)


def test_ranks_agree_on_the_quantile(three_ranks):
    values = np.random.default_rng(3).normal(0.2, 1.5, 3000)
    (threshold,) = {state["thresholds"][0] for state in three_ranks["quantiles"]}
    assert float(threshold) == pytest.approx(np.quantile(values, 0.7), abs=1 / 64)
