"""``encode.granularity`` in the encode stage: documents are cut, records keep their text, all are accounted for."""

from __future__ import annotations

import numpy as np
import pytest
from encode_cases import KINDS, PLAN, conserved, prepare, record

from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, Span, read_rows
from tracestill.data_pipeline.base.stage import is_current, read_manifest
from tracestill.data_pipeline.documents.encode import EncodeConfig, run, stage_config
from tracestill.data_pipeline.tokens.render import load_tokenizer
from tracestill.data_pipeline.tokens.store import TokenStore

GIVEN = "Order 3,4. Let me add. 3 + 4 = 7.\nCheck 7 - 4 = 3."
SPANS = (Span(0, 10, "plan"), Span(10, 22, "prose"), Span(22, 34, "derive"), Span(34, 50, "check"))
LOST = "There is nothing. Nor is here."
RECORDS = [
    *(record(question=f"What is 3 + 4? {i}", trace=GIVEN, spans=SPANS, index=i) for i in range(40)),
    record(question="What is lost?", trace=LOST, spans=(Span(0, len(LOST), "prose"),)),
    record(question="What is short?", trace="3 + 4 = 7.", spans=(Span(0, 10, "derive"),)),
]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("cut"), RECORDS)


def documents(path, tokenizer):
    store = TokenStore(path / "tokens.arrow", KINDS)
    return {
        store.ids[d]: [tokenizer.backend.decode(store.tokens(d)[store.kinds(d) == KINDS.id(kind)].tolist())
                       for kind in ("plan", "prose", "derive", "check")]
        for d in range(len(store))
    }  # fmt: skip


def test_documents_are_cut_and_records_are_not(inputs, tmp_path):
    config = EncodeConfig.model_validate({"granularity": "decisive"})
    run(config, KINDS, PLAN, tmp_path / "encode", **inputs)
    counts = conserved(read_manifest(tmp_path / "encode"))
    assert counts["out"] == len(RECORDS)
    found = counts["granularity"]
    assert {key: found[key] for key in ("in", "cut", "whole", "not_cut")} == {
        "in": 42, "cut": 40, "whole": 1, "not_cut": {"no_answer": 1},
    }  # fmt: skip
    # " 3" loses its space at the beginning of a text, "Check" brings the line break before it
    assert found["characters_gone"] == {"plan": 400, "prose": 480, "derive": 80, "check": 640}
    assert found["trace_characters"] == 40 * len(GIVEN) + len(LOST) + 10
    tokenizer = load_tokenizer(inputs["tokenizer"])
    made = documents(tmp_path / "encode", tokenizer)
    assert made[RECORDS[0].record_id] == ["", "", "3 + 4 = 7.", ""]
    assert made[RECORDS[40].record_id][1] == LOST  # not cut, all of it stays
    store = TokenStore(tmp_path / "encode" / "tokens.arrow", KINDS)
    counted = np.bincount(np.concatenate([store.kinds(d) for d in range(len(store))]), minlength=len(KINDS))
    run(EncodeConfig(), KINDS, PLAN, tmp_path / "full", **inputs)
    whole = TokenStore(tmp_path / "full" / "tokens.arrow", KINDS)
    before = np.bincount(np.concatenate([whole.kinds(d) for d in range(len(whole))]), minlength=len(KINDS))
    gone = {name: int(n) for name, n in zip(KINDS.names, before - counted, strict=True) if n}
    assert gone == found["tokens_gone"]
    rows = read_rows(inputs["select"] / "records.parquet", RECORD_SCHEMA)
    assert rows[0]["trace"] == GIVEN
    assert "granularity" not in read_manifest(tmp_path / "full")["counts"]


def test_what_cannot_be_cut_may_be_rejected(inputs, tmp_path):
    config = EncodeConfig.model_validate({"granularity": {"keep": "decisive", "not_cut": "reject"}})
    run(config, KINDS, PLAN, tmp_path / "encode", **inputs)
    counts = conserved(read_manifest(tmp_path / "encode"))
    assert counts["rejected"] == {"not_cut": 1}


def test_answers_alone_have_nothing_to_cut(inputs, tmp_path):
    run(
        EncodeConfig.model_validate({"granularity": "decisive", "trace": "drop"}), KINDS, PLAN, tmp_path / "a", **inputs
    )
    assert "granularity" not in read_manifest(tmp_path / "a")["counts"]


def test_another_granularity_encodes_again_and_none_changes_nothing(inputs, tmp_path):
    run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)
    assert is_current(tmp_path / "encode", "encode", stage_config(EncodeConfig(), KINDS, PLAN), inputs)
    other = EncodeConfig.model_validate({"granularity": {"keep": "random_drop", "ratio": 0.5}})
    assert not is_current(tmp_path / "encode", "encode", stage_config(other, KINDS, PLAN), inputs)
    assert not {"granularity", "granularity_version"} & stage_config(EncodeConfig(), KINDS, PLAN).keys()
