"""RoPE whose frequencies follow from a row's length: a document in a pack has the loss that it has alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_step
import torch
from transformers import AutoModelForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import pack
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.rope import isolate_rope
from tracestill.trainer.student.student import Student, build_student

FIRST = 8  # positions of the first training
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 100.0,
    "short_factor": [1.0, 1.1, 1.3, 1.6],
    "long_factor": [1.0, 3.0, 6.0, 9.0],
    "original_max_position_embeddings": FIRST,
    "factor": 4.0,
}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 4.0}
STUDENTS: dict[str, dict[str, Any]] = {
    "phi3": {"max_position_embeddings": 32, "original_max_position_embeddings": FIRST, "rope_parameters": LONGROPE},
    "llama": {"max_position_embeddings": FIRST, "rope_parameters": DYNAMIC},
}
LENGTHS = (5, 20, 8, 13, 3, 31)
IDS = {"vocab_size": tiny_step.VOCABULARY, "bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": tiny_step.NUM_KINDS}


def recipe(kind: str) -> StudentConfig:
    return StudentConfig(config={**tiny_step.SHAPE, "model_type": kind, **STUDENTS[kind]})


def row(documents: list[np.ndarray]):
    ends = np.cumsum([0, *map(len, documents)])
    tokens = np.concatenate(documents)
    kinds = np.full(len(tokens), 3, np.uint8)
    ones = np.ones(len(documents), np.float32)
    return pack(tokens, kinds, ends, ones, np.ones(tiny_step.NUM_KINDS, np.float32), length=int(ends[-1]) + 4)


def alone(student: Student, document: np.ndarray) -> float:
    """What a fresh model of transformers' own says: one that has seen no other row."""
    plain = AutoModelForCausalLM.from_config(student.model.config, attn_implementation="eager").eval()
    plain.load_state_dict(student.model.state_dict())
    ids = torch.from_numpy(document.astype(np.int64))[None]
    with torch.no_grad():
        log_p = plain(input_ids=ids, use_cache=False).logits[0, :-1].double().log_softmax(-1)
    return -float(log_p[torch.arange(len(document) - 1), ids[0, 1:]].sum())


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_documents_loss_in_a_pack_is_its_loss_alone(kind):
    student = build_student(recipe(kind), **IDS).eval()
    random = np.random.default_rng(0)
    documents = [random.integers(3, 61, n).astype(np.int32) for n in LENGTHS]
    losses = [alone(student, document) for document in documents]
    with torch.no_grad():
        for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 3]):  # the longest last, and first
            together = student(row([documents[i] for i in order]), 1.0)[0].item()
            assert together == pytest.approx(sum(losses[i] for i in order), rel=1e-5)
        for document, loss in zip(documents, losses, strict=True):  # nothing is left of the rows before
            assert student(row([document]), 1.0)[0].item() == pytest.approx(loss, rel=1e-5)
    assert type(student.model.get_decoder().rotary_emb).__name__.endswith("RotaryEmbedding")


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_row_of_the_first_length_forgets_a_longer_one_before(kind):
    student = build_student(recipe(kind), **IDS).eval()
    random = np.random.default_rng(1)
    longer, first = (random.integers(3, 61, n).astype(np.int32) for n in (20, FIRST))
    ids = torch.from_numpy(first.astype(np.int64))[None]
    with torch.no_grad():
        before = student.model(input_ids=ids, use_cache=False).logits
        student.model(input_ids=torch.from_numpy(longer.astype(np.int64))[None], use_cache=False)
        assert torch.equal(student.model(input_ids=ids, use_cache=False).logits, before)


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_row_that_is_written_beside_a_longer_one_keeps_its_own(kind):
    model = build_student(recipe(kind), **IDS).model
    isolate_rope(model)  # twice does no harm
    rotary, x = model.get_decoder().rotary_emb, torch.zeros(1)
    at = torch.tensor([[20], [4], [13]])  # of each row its next token, the others lie in the cache
    together = rotary(x, at)[0]
    for row, each in enumerate(at):
        assert torch.equal(together[row], rotary(x, each[None])[0][0]), each


def test_ranks_cannot_share_the_rows_of_such_a_student():
    with pytest.raises(InputError, match=r"train\.sequence_parallel: the student's RoPE depends on how long"):
        check_student(recipe("llama"), torch.device("cpu"), torch.float32, 2)


def test_a_rotary_embedding_of_another_make_is_refused():
    model = build_student(recipe("llama"), **IDS).model
    model.get_decoder().rotary_emb = torch.nn.Identity()
    with pytest.raises(InputError, match="the rotary embedding of LlamaForCausalLM depends on how long a row is"):
        isolate_rope(model)
