"""How long documents may be for a student, and what is refused before it is trained."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.documents.made import Bounds, Made
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.tokens.layout import Document, Encoded
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.evaluation.held_out import refuse_longer_held_out
from tracestill.trainer.losses.losses import teacher_forced
from tracestill.trainer.recipe.positions import positions_in, positions_of
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.student import build_student, transformers_config

KINDS = Kinds()
LLAMA3 = {"rope_type": "llama3", "factor": 32.0, "original_max_position_embeddings": 8192}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"model_type": "llama", "max_position_embeddings": 64}, 64),
        ({"model_type": "gpt2", "n_positions": 48}, 48),
        ({"model_type": "t5", "n_positions": 512}, None),
        ({"model_type": "llama"}, None),
        ({"model_type": "llama", "max_position_embeddings": 64, "rope_parameters": YARN}, 128),
        ({"model_type": "llama", "max_position_embeddings": 64, "rope_scaling": {"type": "dynamic", "factor": 2}}, 128),
        ({"model_type": "llama", "max_position_embeddings": 131072, "rope_scaling": LLAMA3}, 131072),  # Llama 3.2
        ({"model_type": "gemma3", "text_config": {"max_position_embeddings": 16}}, 16),
    ],
)
def test_the_positions_of_a_config(config, positions, tmp_path):
    assert positions_in(config) == positions
    assert positions_of(StudentConfig(config=config)) == positions
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert positions_of(StudentConfig(pretrained=tmp_path)) == positions


@pytest.mark.parametrize("text", ['{"a":' * 5000, "{", "[]", '{"rope_scaling": {"type": "yarn", "factor": Infinity}}'])
def test_a_config_that_is_none_binds_nothing(text, tmp_path):
    if "yarn" in text:
        text = text.replace('{"rope', '{"max_position_embeddings": 64, "rope', 1)
    (tmp_path / "config.json").write_text(text)
    assert positions_of(StudentConfig(pretrained=tmp_path)) == (64 if "yarn" in text else None)


def test_a_document_that_the_student_has_no_positions_for_follows_the_policy():
    trace = KINDS.id("derive")
    made = Document(np.arange(20, dtype=np.int32), np.full(20, trace, np.uint8), np.zeros(20, np.uint16))
    record = Record("r7", "q", "1+1", "", "2", "t", (Span(0, 1, "prose"),), 1.0, "", "", 1.0, 0)
    found = [
        Made(Bounds(KINDS, PlanConfig(capacity=64, packs_per_step=1, overlong=policy), 16))
        for policy in ("error", "drop", "trim_trace")
    ]
    with pytest.raises(InputError, match=r"record r7.*20 tokens exceed the student's max_position_embeddings 16; rais"):
        found[0].add(record, Encoded({"": made}))
    for each in found[1:]:
        each.add(record, Encoded({"": made}))
    assert found[1].rejected[0]["detail"] == "20 tokens, the student's max_position_embeddings 16"
    assert found[2].take()["train"].lengths.tolist() == [16]


def test_training_refuses_documents_that_were_encoded_for_more_positions(tmp_path):
    with TokenStoreWriter(tmp_path / "tokens.arrow", KINDS) as writer:
        writer.add("r7", "q", np.arange(33, dtype=np.int32), np.full(33, 3, np.uint8), np.zeros(33, np.uint16), 1.0)
    store = TokenStore(tmp_path / "tokens.arrow", KINDS)
    ids = {"vocab_size": 50}
    layout_for(transformers_config({"model_type": "gpt2", "n_positions": 33}, ids), store)
    with pytest.raises(InputError, match="document r7 has 33 tokens, the student 32 positions"):
        layout_for(transformers_config({"model_type": "gpt2", "n_positions": 32}, ids), store)


def test_held_out_documents_beyond_the_positions_are_refused_before_training_and_when_measured(tmp_path):
    refuse_longer_held_out(tmp_path, KINDS, 32)  # there are none
    with TokenStoreWriter(tmp_path / "test.arrow", KINDS) as writer:
        writer.add("r7", "q", np.arange(33, dtype=np.int32), np.full(33, 3, np.uint8), np.zeros(33, np.uint16), 1.0)
    refuse_longer_held_out(tmp_path, KINDS, 33)
    with pytest.raises(InputError, match="document r7 has 33 tokens, the student 32 positions"):
        refuse_longer_held_out(tmp_path, KINDS, 32)
    ids = {"vocab_size": 50, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": len(KINDS)}
    config = {"model_type": "gpt2", "n_positions": 32, "n_embd": 8, "n_layer": 1, "n_head": 2}
    student = build_student(StudentConfig(config=config), **ids)
    with pytest.raises(InputError, match="document r7 has 33 tokens, the student 32 positions"):
        teacher_forced(student, TokenStore(tmp_path / "test.arrow", KINDS), torch.device("cpu"))
