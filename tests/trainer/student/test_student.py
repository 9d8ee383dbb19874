"""The student: built or loaded, its loss that of the model's own logits, its model otherwise untouched."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tiny_step
import torch
from transformers import AutoModelForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import pack
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.student import Student, build_student, student_head

SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "cohere": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 2.0, "attn_logit_softcapping": None},
}


def build(values: dict[str, Any], **more: Any) -> Student:
    config = StudentConfig(config=values)
    return build_student(config, vocab_size=50, bos_id=1, eos_id=2, pad_id=0, num_kinds=tiny_step.NUM_KINDS, **more)


def row(document: tiny_step.Document, length: int):
    ends = np.array([0, len(document.tokens)])
    weight = np.array([document.weight], dtype=np.float32)
    tokens = document.tokens % 50
    return pack(tokens, document.kinds, ends, weight, tiny_step.TABLE, length=length, pad_id=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_that_of_the_models_own_logits(family):
    student = build({"model_type": family, **SMALL, "num_key_value_heads": 2, **FAMILIES[family]}).eval()
    document = tiny_step.documents(0)[0]
    loss, statistics = student(row(document, 48), 0.25)
    with torch.no_grad():
        ids = torch.from_numpy(document.tokens.astype(np.int64) % 50)
        log_p = student.model(input_ids=ids[None], use_cache=False).logits[0, :-1].double().log_softmax(-1)
    nll = -log_p[torch.arange(len(ids) - 1), ids[1:]]
    weights = torch.from_numpy(document.weights())
    assert loss.item() == pytest.approx(0.25 * float((weights * nll).sum()), rel=1e-5)
    assert float(statistics[:, 0].sum()) == pytest.approx(0.25 * float(weights.sum()), rel=1e-6), "w * c"


def test_a_head_with_a_treatment_of_its_own_is_refused():
    model = tiny_step.plain_model(tied=False)
    plain = model.forward

    def forward(*arguments, **more):
        found = plain(*arguments, **more)
        found.logits = found.logits * 1.5
        return found

    model.forward = forward
    with pytest.raises(InputError, match="LlamaForCausalLM changes its logits after the head"):
        student_head(model, 8, 4096)


@pytest.mark.parametrize("tied", [False, True])
def test_the_model_generates_and_is_saved_as_it_was(tied, tmp_path):
    student = build({**tiny_step.SHAPE, "tie_word_embeddings": tied}).eval()
    prompt = torch.tensor([[1, 7, 9]])
    written = student.model.generate(prompt, max_new_tokens=5, do_sample=False)
    student.model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(plain.generate(prompt, max_new_tokens=5, do_sample=False), written)
    torch.testing.assert_close(plain(prompt).logits, student.model(prompt).logits, rtol=1e-5, atol=1e-5)
    assert (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight) is tied
    assert (plain.config.bos_token_id, plain.config.eos_token_id, plain.config.pad_token_id) == (1, 2, 0)

    config = StudentConfig(pretrained=tmp_path)
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
    again = build_student(config, vocab_size=50, num_kinds=tiny_step.NUM_KINDS, **ids).eval()
    packed = row(tiny_step.documents(1)[2], 48)
    assert again(packed, 1.0)[0].item() == student(packed, 1.0)[0].item()


def test_rows_without_weight_get_exactly_zero_even_if_they_are_nan():
    head = build(tiny_step.SHAPE).head[0]
    packed = row(tiny_step.documents(0)[0], 48)
    idle = torch.ones(48, dtype=torch.bool)
    idle[packed.active] = False
    hidden = torch.randn(48, 32)
    hidden[idle] = float("nan")
    hidden.requires_grad_()
    loss, _ = head(hidden, packed, 1.0)
    loss.backward()
    assert idle.any()
    assert not idle.all()
    assert torch.equal(hidden.grad[idle], torch.zeros_like(hidden.grad[idle]))
    assert hidden.grad[~idle].abs().sum() > 0
    assert torch.isfinite(head.weight.grad).all()


def test_equal_seeds_give_equal_students_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    a, b, c = (build(tiny_step.SHAPE, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(2), expected)
    weights = [student.model.get_output_embeddings().weight for student in (a, b, c)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_type": "lama"}, "student.config.model_type: transformers knows no 'lama'; did you mean 'llama'?"),
        ({"model_type": "llama", "hiden_size": 3}, "llama has no key 'hiden_size'; did you mean 'hidden_size'?"),
        ({"model_type": "llama", "hidden_size": "x"}, "student.config: llama refuses it (Validation error"),
        ({"model_type": "llama", "vocab_size": 9}, "student.config.vocab_size: it follows from the tokenizer"),
    ],
)
def test_a_bad_config_is_refused_in_one_line(values, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build(values)
    assert "\n" not in str(caught.value)


def test_a_directory_that_is_no_model_and_a_vocabulary_that_is_too_small_are_refused(tmp_path):
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": 8}
    with pytest.raises(InputError, match=r"student\.pretrained: .* holds no config\.json"):
        build_student(StudentConfig(pretrained=tmp_path), vocab_size=50, **ids)
    tiny_step.plain_model(tied=False).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has 61 embeddings but the tokenizer has 100 tokens"):
        build_student(StudentConfig(pretrained=tmp_path), vocab_size=100, **ids)


def test_an_attention_backend_that_cannot_run_here_is_refused():
    config = StudentConfig(config=tiny_step.SHAPE, attention="varlen")
    with pytest.raises(InputError, match=r"student\.attention: "):
        build_student(config, vocab_size=50, bos_id=1, eos_id=2, pad_id=0, num_kinds=8)
