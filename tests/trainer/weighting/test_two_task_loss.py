"""The loss of two tasks by the numbers of docs/encoding.md, from documents that encode makes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from encode_cases import KINDS, record

from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer
from tracestill.trainer.weighting import SpanWeighting, WeightingConfig
from tracestill.trainer.weighting.normaliser import NORMALISERS, Counted

LAMBDA = 0.5
NLL = {"derive": [2.0, 4.0, 6.0], "answer": [1.0, 3.0, 5.0], "control": [0.25] * 12}
WANTED = {
    "spans": 5.25 / 2.5,
    "weights": (9 + 0.5 * 12 + 3) / (3 + 1.5 + 12),
    "tokens": (9 + 0.5 * 12 + 3) / 18,
    # means of the documents, three delimiters in each: traces (2, 4) and (6), answers (1) and (3, 5)
    "examples": ((0.5 * 6 + 0.75) / 4 + (1 + 0.75) / 4 + (0.5 * 6 + 0.75) / 3.5 + (8 + 0.75) / 5) / 4,
}
PAGE = Path(__file__).parents[3] / "docs" / "encoding.md"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> TokenStore:
    """Two records; digits are tokens of their own, so traces of two and one targets, answers of one and two."""
    folder = tmp_path_factory.mktemp("two")
    write_tokenizer(train_sentencepiece(["What is 3 + 4? [rationale] [label] abcdefghij klmnop"] * 9, 330), folder)
    layout = load_layout(EncodeConfig.model_validate({"two_task": {}}), folder)
    records = [
        record(trace="34", answer="7", spans=(Span(0, 2, "derive"),)),
        record("And 9?", trace="9", answer="10", spans=(Span(0, 1, "derive"),)),
    ]
    with TokenStoreWriter(folder / "tokens.arrow", KINDS) as writer:
        for made, encoded in zip(records, layout.encode(records, KINDS), strict=True):
            for ending, document in encoded.documents.items():
                writer.add(made.record_id + ending, made.question_id, *document, made.weight)
    return TokenStore(folder / "tokens.arrow", KINDS)


@pytest.mark.parametrize("normaliser", WANTED)
def test_the_loss_is_that_of_the_paper(store: TokenStore, normaliser: str) -> None:
    block = next(b for b in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.S) if "two_task" in b)
    weights = yaml.safe_load(block)["weighting"]["weights"]
    table = SpanWeighting(WeightingConfig(weights=weights), KINDS).kinds(0)
    counts, records = store.counts, store.weights
    assert counts[:, KINDS.id("derive")].tolist() == [2, 0, 1, 0]
    assert counts[:, KINDS.id("answer")].tolist() == [0, 1, 0, 2]
    c = NORMALISERS[normaliser].factors(Counted(counts, counts, records, table))
    left, loss = {name: list(values) for name, values in NLL.items()}, 0.0
    for document in range(len(store)):
        for kind in store.kinds(document)[1:].tolist():
            nll = left[KINDS.names[kind]].pop(0) if table[kind] else 99.0
            loss += float(table[kind] * c[document, kind] * nll)
    assert not any(left.values())
    assert loss == pytest.approx(WANTED[normaliser])
    if normaliser == "spans":
        paper = np.mean(NLL["answer"]) + LAMBDA * np.mean(NLL["derive"])
        assert loss == pytest.approx((paper + np.mean(NLL["control"])) / (1 + LAMBDA + 1))
