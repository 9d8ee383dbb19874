"""Held-out documents while training: each measured once, every target counted once, ranks in step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.kernels.loss import Statistic
from tracestill.trainer.evaluation.held_out import HeldOut
from tracestill.trainer.ranks.mesh import mesh

KINDS = Kinds()
CAPACITY = 60


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """20 documents of record weights other than 1, one of them longer than a row."""
    path = tmp_path_factory.mktemp("store") / "test.arrow"
    rng = np.random.default_rng(0)
    with TokenStoreWriter(path, KINDS) as writer:
        for index in range(20):
            n = 150 if index == 4 else int(rng.integers(2, 40))
            kinds = rng.integers(0 if index == 3 else 1, 8, n).astype(np.uint8)  # one document with a cut (pad)
            weight = float(rng.uniform(0, 3))
            writer.add(f"r{index}", "q", np.full(n, 9, np.int32), kinds, np.zeros(n, np.uint16), weight)
    return TokenStore(path, KINDS)


def walk(held, rank, ranks):
    """The micro-steps that a rank measures."""
    seen = []
    engine = SimpleNamespace(mesh=mesh(rank, ranks, 1), device=torch.device("cpu"))
    engine.measure = lambda micro: seen.append(micro) or torch.zeros(len(KINDS), len(Statistic))
    held.measure(engine)
    return seen


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_the_documents_and_measure_equally_often(store, ranks):
    held = HeldOut(store, KINDS, split="test", capacity=CAPACITY, documents=17, pad_id=0)
    parts = [walk(held, rank, ranks) for rank in range(ranks)]
    assert len({len(part) for part in parts}) == 1, "a collective would wait for ever"
    documents = [document for part in parts for micro in part for document in micro.documents.tolist()]
    assert sorted(documents) == list(range(17))
    for part in parts:
        for micro in part:
            assert int(store.lengths[micro.documents].sum()) <= CAPACITY or len(micro.documents) == 1


def test_every_target_weighs_one_but_those_after_a_cut(store):
    held = HeldOut(store, KINDS, split="test", capacity=CAPACITY, documents=20, pad_id=0)
    micro_steps = walk(held, 0, 1)
    rows = [micro.packed for micro in micro_steps]
    weighed = sum(float(row.loss_weight.sum()) for row in rows)
    targets = sum(int((store.kinds(d)[1:] != 0).sum()) for d in range(20))
    assert int((store.kinds(3)[1:] == 0).sum()) > 0
    assert weighed == targets
    assert {micro.scale for micro in micro_steps} == {1 / targets}, "the log's weights are shares of the targets"
    assert {value for row in rows for value in row.loss_weight.tolist()} == {0.0, 1.0}
