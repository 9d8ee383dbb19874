"""What a record's weight does to the gradient: 3 is the document three times, 0 is its absence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from normaliser_cases import weights_of

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.plan.plan import PlanConfig, make_plan
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.batches import Batches
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig

KINDS, VOCABULARY = Kinds(), 50
RNG = np.random.default_rng(0)
DOCUMENTS = [
    (RNG.integers(6, VOCABULARY, n).astype(np.int32), RNG.integers(1, 8, n).astype(np.uint8)) for n in (23, 40, 11)
]


def gradient(path: Path, documents: Sequence[tuple[int, float]], normaliser: str) -> torch.Tensor:
    """d loss / d logits of a bigram student, over one step of these documents with these record weights."""
    with TokenStoreWriter(path, KINDS) as writer:
        for at, (document, weight) in enumerate(documents):
            tokens, kinds = DOCUMENTS[document]
            writer.add(f"r{at}", f"q{at}", tokens, kinds, np.zeros(len(tokens), np.uint16), weight)
    store, config = TokenStore(path, KINDS), PlanConfig(capacity=256, packs_per_step=1)
    table = {"prompt": 0.0, "trace": 0.5, "answer": 2.0}
    weighting = SpanWeighting(WeightingConfig.model_validate({"weights": table, "normaliser": normaliser}), KINDS)
    every = Batches(
        store,
        lambda epoch: make_plan(store.lengths, config, seed=3, epoch=epoch),
        weighting,
        rank=0,
        ranks=1,
        pad_id=0,
        device=torch.device("cpu"),
        normaliser=normaliser,
    )
    step = every.step(0)
    assert len(step.documents) == len(documents)
    logits = torch.arange(VOCABULARY**2, dtype=torch.float64).sin().reshape(VOCABULARY, VOCABULARY).requires_grad_()
    for micro in step.micro:
        packed = micro.packed
        labels = packed.labels.reshape(-1).long()
        rows = logits[packed.input_ids.reshape(-1).long()]
        nll = torch.nn.functional.cross_entropy(rows, labels.clamp(min=0), reduction="none")
        (nll * torch.from_numpy(weights_of(micro))).sum().backward()
    assert logits.grad is not None
    return logits.grad


@pytest.mark.parametrize("normaliser", ["weights", "spans", "examples"])
def test_weight_3_is_the_document_three_times_and_0_its_absence(tmp_path: Path, normaliser: str) -> None:
    weighed = gradient(tmp_path / "weighed", [(0, 3.0), (1, 1.0), (2, 0.0)], normaliser)
    repeated = gradient(tmp_path / "repeated", [(0, 1.0), (0, 1.0), (0, 1.0), (1, 1.0)], normaliser)
    torch.testing.assert_close(weighed, repeated, rtol=1e-5, atol=1e-9)
    alike = gradient(tmp_path / "alike", [(0, 1.0), (1, 1.0), (2, 0.0)], normaliser)
    absent = gradient(tmp_path / "absent", [(0, 1.0), (1, 1.0)], normaliser)
    torch.testing.assert_close(alike, absent, rtol=1e-5, atol=1e-9)
    assert not torch.allclose(weighed, alike, rtol=0.05), "the weight is felt"
