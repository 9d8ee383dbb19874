"""A stored nll comes to the position that predicts its token: in packed rows, shared ones too, and in rectangles."""

from functools import partial

import numpy as np
import pytest
import torch

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.batches import Batches, row_of
from tracestill.trainer.batches.rectangles import paired_row
from tracestill.trainer.weighting import Document, WeightingConfig, make_weighting
from tracestill.trainer.weighting.by_token import uniform

KINDS = Kinds()
OPTIONS = {"channel": "ref.nll", "threshold": 0.5}


class Said:
    """An nll of a quarter of the token's id; of what only an encoder reads, and of first tokens, nothing."""

    def __init__(self, store):
        self.store = store

    def channel(self, name):
        return BUILT_IN[name]

    def of(self, name, document):
        nll = (self.store.tokens(document) / 4).astype(np.float16)
        nll[self.store.kinds(document) == 0] = np.nan
        nll[0] = np.nan
        return nll


def stored(path, *, paired):
    rng = np.random.default_rng(0)
    with TokenStoreWriter(path, KINDS) as writer:
        for at in range(30):
            n = int(rng.integers(6, 90))
            kinds = rng.integers(1, 8, n).astype(np.uint8)
            if paired:
                kinds[: n // 3] = 0
            writer.add(f"r{at}", "q", rng.integers(6, 200, n), kinds, np.zeros(n), float(rng.uniform(0.5, 2)))
    return TokenStore(path, KINDS)


@pytest.mark.parametrize(("paired", "parts"), [(False, 1), (False, 2), (True, 1)])
def test_each_position_has_the_nll_of_its_label(tmp_path, paired, parts):
    store = stored(tmp_path / "tokens.arrow", paired=paired)
    config = PlanConfig(capacity=192, packs_per_step=3)
    weighting = make_weighting(WeightingConfig(use="excess_loss", options=OPTIONS), KINDS, 0, {"ref": Said(store)})
    make_row = partial(paired_row, start_id=1, groups=2) if paired else row_of
    for part in range(parts):
        batches = Batches(
            store,
            lambda epoch: make_plan(store.lengths, config, seed=0, epoch=epoch),
            weighting,
            rank=0,
            ranks=2,
            pad_id=0,
            device=torch.device("cpu"),
            part=part,
            parts=parts,
            make_row=make_row,
        )
        seen = 0
        for step in range(batches.plan.n_steps):
            for micro in batches.step(step).micro:
                packed = micro.packed
                expected = torch.where(packed.labels >= 0, packed.labels / 4, 0.0)
                assert torch.equal(packed.reference_nll[packed.active], expected[packed.active].float())
                assert packed.reference_nll.shape == packed.labels.shape
                seen += len(packed.active)
        assert seen > 100


def test_a_control_draws_each_label_by_document_position_and_step(tmp_path):
    store = stored(tmp_path / "tokens.arrow", paired=False)
    options = {"share": 0.3, "control": True}
    weighting = make_weighting(WeightingConfig(use="excess_loss", options=options), KINDS, 5)

    def drawn(packs, step, rank=0, ranks=1):
        plan = make_plan(store.lengths, PlanConfig(capacity=192, packs_per_step=packs), seed=0, epoch=0)
        cpu = torch.device("cpu")
        batches = Batches(store, lambda _: plan, weighting, rank=rank, ranks=ranks, pad_id=0, device=cpu)
        found = {}
        for micro in batches.step(step).micro:
            bounds = micro.packed.cu_seqlens.tolist()
            for at, document in enumerate(micro.documents.tolist()):
                found[document] = micro.packed.reference_nll[bounds[at] : bounds[at + 1] - 1].tolist()
        return found

    whole = drawn(3, 1)
    for document, numbers in whole.items():
        expected = uniform(5, document, 1, len(numbers) + 1)[1:].astype(np.float32)
        assert numbers == expected.tolist(), "of the label, not of the position that predicts it"
    assert {**drawn(3, 1, 0, 2), **drawn(3, 1, 1, 2)} == whole, "on whatever rank"
    assert (
        weighting.drawn(weighting_document(store), 0).tolist() != weighting.drawn(weighting_document(store), 1).tolist()
    )


def weighting_document(store):
    return Document(0, store.tokens(0), store.kinds(0), store.steps(0))


def test_other_weightings_carry_none(tmp_path):
    store = stored(tmp_path / "tokens.arrow", paired=False)
    plan = make_plan(store.lengths, PlanConfig(capacity=192, packs_per_step=3), seed=0, epoch=0)
    weighting = make_weighting(WeightingConfig(), KINDS)
    batches = Batches(store, lambda _: plan, weighting, rank=0, ranks=1, pad_id=0, device=torch.device("cpu"))
    assert {micro.packed.reference_nll for micro in batches.step(0).micro} == {None}
