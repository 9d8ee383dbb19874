"""Steps of a run: the same documents and the same factor c for any number of ranks, each document exactly once."""

import numpy as np
import pytest
import torch

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.plan.plan import PlanConfig, Planner, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.batches import ROW_MULTIPLE, Batches
from tracestill.trainer.weighting import SpanWeighting, TargetWeights, WeightingConfig

KINDS = Kinds()
WEIGHTS = {"prompt": 0.0, "trace": 0.5, "answer": 2.0}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "tokens.arrow"
    rng = np.random.default_rng(0)
    with TokenStoreWriter(path, KINDS) as writer:
        for index in range(41):
            n = int(rng.integers(2, 90))
            tokens = rng.integers(6, 50, n).astype(np.int32)
            kinds = rng.integers(1, 8, n).astype(np.uint8)
            weight = 0.0 if index == 7 else float(rng.uniform(0.5, 2))
            writer.add(f"r{index}", f"q{index}", tokens, kinds, np.zeros(n, np.uint16), weight)
    return TokenStore(path, KINDS)


def batches(store, rank=0, ranks=1, **more):
    config = PlanConfig(capacity=128, packs_per_step=4, group=2)
    return Batches(
        store,
        lambda epoch: make_plan(store.lengths, config, seed=3, epoch=epoch),
        SpanWeighting(WeightingConfig(weights=WEIGHTS), KINDS),
        rank=rank,
        ranks=ranks,
        pad_id=0,
        device=torch.device("cpu"),
        **more,
    )


def by_hand(store, documents):
    """Sum of w over the targets of some documents, one token at a time."""
    table = {"prompt": 0.0, "plan": 0.5, "derive": 0.5, "check": 0.5, "prose": 0.5, "answer": 2.0, "control": 1.0}
    return sum(
        table[KINDS.names[kind]] * float(store.weights[d]) for d in documents for kind in store.kinds(int(d))[1:]
    )


def test_every_document_comes_once_an_epoch_and_epochs_differ(store):
    every = batches(store)
    steps = every.plan.n_steps
    first = np.concatenate([every.step(s).documents for s in range(steps)])
    second = np.concatenate([every.step(steps + s).documents for s in range(steps)])
    assert sorted(first) == sorted(second) == list(range(41))
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
def test_ranks_share_a_step_without_changing_it(store, ranks):
    alone = batches(store)
    together = [batches(store, rank, ranks) for rank in range(ranks)]
    for step in range(alone.plan.n_steps + 1):  # into the second epoch
        whole = alone.step(step)
        parts = [each.step(step) for each in together]
        assert {len(part.micro) for part in parts} == {-(-4 // ranks)} == {each.accumulation for each in together}
        assert {part.weight_sum for part in parts} == {whole.weight_sum}
        assert {part.work.tokens for part in parts} == {int(store.lengths[whole.documents].sum())}
        mine = [document for part in parts for micro in part.micro for document in micro.documents.tolist()]
        assert sorted(mine) == sorted(whole.documents.tolist())


def test_the_weights_of_a_step_sum_to_one(store):
    """c is 1 over the sum of w, found from counts alone; the packed rows must agree with it."""
    every = batches(store)
    for step in range(every.plan.n_steps):
        found = every.step(step)
        assert found.weight_sum == pytest.approx(by_hand(store, found.documents), rel=1e-6)
        packed = sum(float(m.packed.loss_weight.double().sum()) * m.scale for m in found.micro)
        assert packed == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("parts", [2, 3])
def test_ranks_that_share_rows_hold_their_equal_parts(store, parts):
    alone = batches(store, rank=1, ranks=2)
    together = [batches(store, rank=1, ranks=2, part=part, parts=parts) for part in range(parts)]
    for step in range(alone.plan.n_steps):
        whole, shared = alone.step(step), [each.step(step) for each in together]
        assert {each.weight_sum for each in shared} == {whole.weight_sum}
        assert {each.work.tokens for each in shared} == {whole.work.tokens}
        for at, micro in enumerate(whole.micro):
            pieces = [each.micro[at] for each in shared]
            assert {piece.scale for piece in pieces} == {micro.scale}
            assert {piece.packed.input_ids.shape[1] % ROW_MULTIPLE for piece in pieces} == {0}
            for name in ("input_ids", "labels", "kinds", "loss_weight"):
                of_all = torch.cat([getattr(piece.packed, name) for piece in pieces], dim=-1)
                real = int(store.lengths[micro.documents].sum())
                assert of_all[..., :real].equal(getattr(micro.packed, name)[..., :real]), name
            assert sum(len(piece.packed.active) for piece in pieces) == len(micro.packed.active)
            assert {int(piece.packed.cu_seqlens[-1]) for piece in pieces} == {of_all.shape[-1]}


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_positions_of_a_step_are_those_of_all_rows_and_parts(store, parts):
    """Two that read different packs, each in ``parts``: what padding is counted from."""
    every = [batches(store, rank, 2, part=part, parts=parts) for rank in range(2) for part in range(parts)]
    for step in range(every[0].plan.n_steps):
        found = [each.step(step) for each in every]
        computed = sum(micro.packed.input_ids.shape[1] for one in found for micro in one.micro)
        assert {one.work.positions for one in found} == {computed}
        assert computed % (ROW_MULTIPLE * parts) == 0


def test_a_row_without_documents_is_padding_that_weighs_nothing(store):
    idle = batches(store, rank=6, ranks=7).step(0).micro[0]
    assert len(idle.documents) == 0
    assert idle.packed.input_ids.shape == (1, ROW_MULTIPLE)
    assert len(idle.packed.active) == 0
    assert float(idle.packed.loss_weight.sum()) == 0.0


def mixed_batches(store, normaliser="weights", **more):
    """Short documents several times an epoch, some of the long ones: epochs of different steps."""
    parts = {"short": {"share": 3, "where": {"length": {"max": 30}}}, "rest": {"share": 1}}
    config = PlanConfig(capacity=128, packs_per_step=1, mixture={"parts": parts, "size": 900}, order="length")
    planner = Planner(store.lengths, config, seed=3)
    weighting = SpanWeighting(WeightingConfig(weights=WEIGHTS), KINDS)
    device = torch.device("cpu")
    return Batches(
        store, planner.plan, weighting, normaliser=normaliser, rank=0, ranks=1, pad_id=0, device=device, **more
    )


def test_a_document_counts_as_often_as_the_plan_has_it_and_epochs_may_differ_in_steps(store):
    every = mixed_batches(store)
    plans = [every.plan_of_epoch(epoch) for epoch in range(12)]
    assert len({plan.n_steps for plan in plans}) > 1
    step = 0
    for epoch, plan in enumerate(plans):
        seen = []
        for at in range(plan.n_steps):
            got = every.step(step)
            assert (got.epoch, got.documents.tolist()) == (epoch, np.concatenate(plan.step(at)).tolist())
            assert got.weight_sum == pytest.approx(by_hand(store, got.documents), rel=1e-6)
            seen += got.documents.tolist()
            step += 1
        assert max(np.bincount(seen)) > 1
    jumped = mixed_batches(store)
    for other in (step - 1, 3, step - 9):
        assert jumped.step(other).documents.tolist() == every.step(other).documents.tolist()


@pytest.mark.parametrize("normaliser", ["weights", "tokens", "spans", "examples"])
def test_a_step_that_holds_a_document_twice_divides_by_both(store, normaliser):
    """The sum of w c of its targets is that of two different documents with equal tokens."""
    weights = TargetWeights(store, SpanWeighting(WeightingConfig(weights=WEIGHTS), KINDS), normaliser)
    once, twice = (weights.of_step(np.array(each), 0) for each in ([3, 5, 9], [3, 5, 9, 3, 5, 9]))
    assert twice[0] == pytest.approx(2 * once[0])
    assert twice[1] == pytest.approx(once[1]), "w c is normalised"


def test_a_step_is_found_without_those_before_it(store):
    """Resuming asks for a step in the middle of a later epoch first."""
    walked, jumped = batches(store), batches(store)
    target = walked.plan.n_steps + 2
    for step in range(target):
        walked.step(step)
    assert walked.step(target).documents.tolist() == jumped.step(target).documents.tolist()
    assert jumped.epoch == jumped.step(target).epoch == 1
    assert jumped.step(target - 3).epoch == 0, "and back"
