"""The drop-in for Hugging Face's trainers: the same loss and gradients as the model's own, then weights."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM, LlamaConfig, LlamaForCausalLM

from tracestill.kernels.loss.hf_trainer import SpanWeightedLoss

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


def llama(tie=False):
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=67, tie_word_embeddings=tie, **SIZES)).train()


def batch():
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 67, (3, 11), generator=g)
    labels = ids.clone()
    labels[1, :5] = -100
    return ids, labels


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("items", [None, 57])
def test_weights_of_one_give_the_models_own_loss(tie, items):
    plain = llama(tie)
    fused = copy.deepcopy(plain)
    ids, labels = batch()
    kwargs = {} if items is None else {"num_items_in_batch": items}
    expected = plain(input_ids=ids, labels=labels, **kwargs).loss
    expected.backward()
    loss_of = SpanWeightedLoss(fused, chunk_rows=5)
    outputs = fused(input_ids=ids)
    assert outputs.logits.shape == (3, 11, 16)  # hidden states: no logits were made
    loss = loss_of(outputs, labels, num_items_in_batch=None if items is None else torch.tensor(items))
    loss.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    for name, grad in gradients(fused).items():
        torch.testing.assert_close(grad, gradients(plain)[name], rtol=1e-4, atol=1e-7, msg=name)


def test_weights_and_kinds_reach_the_loss_and_not_the_model():
    model = llama()
    plain = copy.deepcopy(model)
    ids, labels = batch()
    weights = torch.rand(3, 11, generator=torch.Generator().manual_seed(2))
    weights[0] = 0
    kinds = (torch.arange(33) % 4).reshape(3, 11).to(torch.uint8)
    loss_of = SpanWeightedLoss(model, num_kinds=4)
    loss = loss_of(model(input_ids=ids, loss_weights=weights, kinds=kinds), labels)
    nll = F.cross_entropy(plain(input_ids=ids).logits[:, :-1].double().transpose(1, 2), labels[:, 1:], reduction="none")
    counted = (labels[:, 1:] != -100) & (weights[:, 1:] != 0)
    w = (weights[:, 1:] * counted).double()
    assert abs(loss.item() - float((w * nll).sum() / w.sum())) < 1e-6
    statistics = loss_of.take_statistics()
    assert loss_of.take_statistics() is None
    for kind in range(4):
        of_kind = counted & (kinds[:, 1:] == kind)
        assert statistics[kind, 2] == of_kind.sum()
        assert abs(float(statistics[kind, 0]) - float(w[of_kind].sum() / w.sum())) < 1e-6

    model.eval()
    outputs = model(input_ids=ids, loss_weights=weights)
    assert outputs.logits.shape == (3, 11, 67)  # evaluation has its logits
    assert abs(loss_of(outputs, labels).item() - loss.item()) < 1e-5


def test_heads_that_are_not_understood_are_refused():
    gemma = Gemma2ForCausalLM(
        Gemma2Config(vocab_size=67, head_dim=8, num_key_value_heads=2, final_logit_softcapping=30.0, **SIZES)
    )
    with pytest.raises(ValueError, match="changes its logits \\(final_logit_softcapping\\)"):
        SpanWeightedLoss(gemma)
    model = llama()
    SpanWeightedLoss(model)
    with pytest.raises(ValueError, match=r"head is DeferringHead; expected a plain nn.Linear"):
        SpanWeightedLoss(model)


@pytest.mark.skipif(importlib.util.find_spec("accelerate") is None, reason="transformers' Trainer needs accelerate")
def test_the_example_learns_what_weighs(capsys):
    path = Path(__file__).parents[3] / "docs" / "hf_trainer.py"
    spec = importlib.util.spec_from_file_location("hf_trainer_example", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    statistics = example.main(steps=60)
    _, _, count, _, correct, *_ = statistics.unbind(1)
    assert count[0] == 0  # the question weighs nothing
    assert (count[1:] == 60 * 16 * 8).all()
    assert (correct[1:] > 0.5 * count[1:]).all()
    assert "answer" in capsys.readouterr().out


@pytest.mark.parametrize("weighted", [False, True])
def test_a_teacher_in_the_batch_is_followed(weighted):
    """By definition, in float64: what stands at a token was said of it before it was read."""
    model = llama()
    exact = copy.deepcopy(model).double()
    ids, labels = batch()
    g = torch.Generator().manual_seed(4)
    log_q, top = torch.log_softmax(2 * torch.randn(3, 11, 67, generator=g), 2).topk(4)
    top[:, 0], top[2, 5], log_q[2, 5] = -1, -1, float("nan")
    v = torch.rand(3, 11, generator=g) if weighted else torch.ones(3, 11)
    loss_of = SpanWeightedLoss(model, mix=0.25, divergence="reverse")
    more = {"teacher_weights": v} if weighted else {}
    outputs = model(input_ids=ids, teacher_ids=top.int(), teacher_log_probs=log_q.half(), **more)
    loss = loss_of(outputs, labels, num_items_in_batch=20)
    loss.backward()
    log_p, wanted = torch.log_softmax(exact(input_ids=ids).logits, 2), 0.0
    for row in range(3):
        for at in range(1, 11):
            if labels[row, at] != -100:
                wanted = wanted - 0.75 * log_p[row, at - 1, ids[row, at]]
            if top[row, at, 0] >= 0:
                rest = torch.ones(67, dtype=torch.bool).index_fill_(0, top[row, at], False)
                p = log_p[row, at - 1].exp()
                p, q = torch.cat([p[top[row, at]], p[rest].sum()[None]]), log_q[row, at].half().double().exp()
                q = torch.cat([q, (1 - q.sum())[None]])
                wanted = wanted + 0.25 * v[row, at] * (p * (p / q).log()).sum()
    (wanted / 20).backward()
    assert float(loss) == pytest.approx(float(wanted.detach()) / 20, rel=1e-6)
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(gradients(model)[name].double(), parameter.grad, rtol=1e-4, atol=1e-6, msg=name)
