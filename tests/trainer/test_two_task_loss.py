"""The loss of two tasks by the numbers of docs/encoding.md, from documents that encode makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from encode_cases import KINDS, record

from tracestill.data_pipeline.encode import EncodeConfig, load_form
from tracestill.data_pipeline.schema import Span
from tracestill.data_pipeline.store import TokenStore, TokenStoreWriter
from tracestill.data_pipeline.tokenizer import train_sentencepiece, write_tokenizer
from tracestill.trainer import normaliser as norm
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig

LAMBDA = 0.5
NLL = {"derive": [2.0, 4.0, 6.0], "answer": [1.0, 3.0, 5.0]}
WANTED = {
    "spans": 5 / 1.5,
    "weights": (9 + 0.5 * 12) / (3 + 1.5),
    "tokens": (9 + 0.5 * 12) / 6,
    "examples": (3 + 1 + 6 + 4) / 4,  # means of the documents: (2, 4), (1), (6), (3, 5)
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Two records; digits are tokens of their own, so traces of two and one targets, answers of one and two."""
    folder = tmp_path_factory.mktemp("two")
    write_tokenizer(train_sentencepiece(["What is 3 + 4? [rationale] [label] abcdefghij klmnop"] * 9, 330), folder)
    form = load_form(EncodeConfig.model_validate({"two_task": {}}), folder)
    records = [
        record(trace="34", answer="7", spans=(Span(0, 2, "derive"),)),
        record("And 9?", trace="9", answer="10", spans=(Span(0, 1, "derive"),)),
    ]
    with TokenStoreWriter(folder / "tokens.arrow", KINDS) as writer:
        for made, encoded in zip(records, form.encode(records, KINDS), strict=True):
            for ending, document in encoded.documents.items():
                writer.add(made.record_id + ending, made.question_id, *document, made.weight)
    return TokenStore(folder / "tokens.arrow", KINDS)


@pytest.mark.parametrize("normaliser", WANTED)
def test_the_loss_is_that_of_the_paper(store: TokenStore, normaliser: str) -> None:
    weights = {"prompt": 0, "control": 0, "answer": 1, "trace": LAMBDA}
    table = SpanWeighting(WeightingConfig(weights=weights), KINDS).kinds(0)
    counts, records = store.counts, store.weights
    assert counts[:, KINDS.id("derive")].tolist() == [2, 0, 1, 0]
    assert counts[:, KINDS.id("answer")].tolist() == [0, 1, 0, 2]
    total = norm.sums(normaliser, counts, counts, records, table)

    shared = norm.factor(normaliser, torch.from_numpy(total), table).numpy()
    own = norm.own_factors(normaliser, counts, table)
    left, loss = {name: list(values) for name, values in NLL.items()}, 0.0
    for document in range(len(store)):
        for kind in store.kinds(document)[1:].tolist():
            c = own[document] * (shared[kind] if normaliser == "spans" else shared)
            nll = left[KINDS.names[kind]].pop(0) if table[kind] else 99.0
            loss += float(table[kind] * c * nll)
    assert left == {"derive": [], "answer": []}
    assert loss == pytest.approx(WANTED[normaliser])
    if normaliser == "spans":
        assert loss == pytest.approx((np.mean(NLL["answer"]) + LAMBDA * np.mean(NLL["derive"])) / (1 + LAMBDA))
