"""Keys of the student block in effect: what learns, what is kept for backward, what is compiled. One process."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import tiny_step
import torch
from torch import nn

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.pack import PackedBatch, pack
from tracestill.trainer.recipe.student_settings import LoraConfig, StudentConfig
from tracestill.trainer.student import adapt as adapt_module
from tracestill.trainer.student import adapters
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.student import Student, build_student

CPU = torch.device("cpu")
IDS = {"bos_id": 1, "eos_id": 2, "pad_id": 0}
LINEAR = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


@pytest.fixture(params=[False, True], ids=["untied", "tied"])
def base(request, tmp_path):
    """A directory with a pretrained model, and whether its head is tied."""
    tiny_step.plain_model(tied=request.param).save_pretrained(tmp_path / "base")
    return tmp_path / "base", request.param


def build(base: Any, **block: Any) -> Student:
    source = {"config": base} if isinstance(base, dict) else {"pretrained": base}
    config = StudentConfig(**source, **block)
    student = build_student(config, vocab_size=tiny_step.VOCABULARY, num_kinds=tiny_step.NUM_KINDS, **IDS)
    adapt(student, config, seed=3, device=CPU)
    return student


def packed(documents: list[tiny_step.Document]) -> PackedBatch:
    tokens, kinds = (np.concatenate([getattr(d, name) for d in documents]) for name in ("tokens", "kinds"))
    offsets = np.cumsum([0, *(len(d.tokens) for d in documents)]).astype(np.int64)
    weights = np.array([d.weight for d in documents], dtype=np.float32)
    return pack(tokens, kinds, offsets, weights, tiny_step.TABLE, length=len(tokens) + 3, pad_id=0)


def learning(student: Student) -> set[str]:
    return {adapters.plain_name(name) for name, p in student.model.named_parameters() if p.requires_grad}


def gradients(student: Student, step: int = 0) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    loss, _ = student(packed(tiny_step.documents(step)), tiny_step.normaliser(step))
    loss.backward()
    found = {adapters.plain_name(n): p.grad for n, p in student.model.named_parameters() if p.grad is not None}
    return loss.detach(), found


# ---- what learns


def test_adapters_begin_as_nothing_and_alone_learn(base):
    path, tied = base
    plain, student = build(path), build(path, lora={"rank": 4})
    (loss, whole), (adapted, found) = gradients(plain), gradients(student)
    assert adapted.item() == loss.item()
    layers = [f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "mlp")]
    expected = {
        f"{layer}.{name}.lora_{which}.weight"
        for layer in layers
        for name in LINEAR
        if (name in ("down_proj", "gate_proj", "up_proj")) == layer.endswith("mlp")
        for which in "AB"
    }
    assert learning(student) == found.keys() == expected
    assert (student.head[0].weight is student.model.get_input_embeddings().weight) is tied
    # W + s B A with B = 0: dB = s dW A^T, dA = 0
    state = {adapters.plain_name(n): p.detach() for n, p in student.model.named_parameters()}
    for name in ("model.layers.0.self_attn.v_proj", "model.layers.1.mlp.down_proj"):
        a = state[f"{name}.lora_A.weight"].double()
        by_hand = 32.0 / 4 * whole[f"{name}.weight"].double() @ a.T
        difference = found[f"{name}.lora_B.weight"].double() - by_hand
        assert difference.norm() <= 2e-6 * by_hand.norm()
        assert not found[f"{name}.lora_A.weight"].any()


def test_named_targets_rank_dropout_and_what_is_trained_whole_take_effect(base):
    path, tied = base
    lora = {"rank": 2, "alpha": 3.0, "dropout": 0.5, "targets": ["q_proj", "layers.1.mlp.up_proj"], "train": ["head"]}
    student = build(path, lora=lora)
    wrapped = {name: m for name, m in student.model.named_modules() if hasattr(m, "lora_A")}
    queries = {f"model.layers.{i}.self_attn.q_proj" for i in (0, 1)}
    assert wrapped.keys() == queries | {"model.layers.1.mlp.up_proj"}
    one = wrapped["model.layers.0.self_attn.q_proj"]
    assert one.lora_A["default"].weight.shape == (2, 32)
    assert one.scaling["default"] == 1.5
    assert one.lora_dropout["default"].p == 0.5
    whole = {name for name in learning(student) if "lora" not in name}
    assert whole == {"model.embed_tokens.weight" if tied else "lm_head.weight"}
    assert gradients(student)[1].keys() == learning(student)


def test_equal_seeds_give_equal_adapters_and_leave_the_generator_alone(base):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    one = build(base[0], lora={})
    assert torch.equal(torch.rand(2), expected)
    two = build(base[0], lora={})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert any(p.any() for n, p in one.named_parameters() if "lora_A" in n)


def test_frozen_parameters_get_no_gradient_and_the_others_the_same():
    config = {**tiny_step.SHAPE, "tie_word_embeddings": False}
    _, whole = gradients(build(config))
    student = build(config, freeze=["embeddings", "model.layers.0.*norm*"])
    frozen = {"model.embed_tokens.weight"} | {
        f"model.layers.0.{name}_layernorm.weight" for name in ("input", "post_attention")
    }
    _, found = gradients(student)
    assert found.keys() == learning(student) == whole.keys() - frozen
    assert all(torch.equal(found[name], whole[name]) for name in found)


def test_frozen_embeddings_of_a_tied_head_must_be_meant():
    config = {**tiny_step.SHAPE, "tie_word_embeddings": True}
    with pytest.raises(InputError, match=r"student\.freeze: the head is tied to the embeddings"):
        build(config, freeze=["embeddings"])
    student = build(config, freeze=["embeddings", "head"])
    assert "model.embed_tokens.weight" not in learning(student)
    assert gradients(student)[1].keys() == learning(student)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"freeze": ["embedings"]}, "student.freeze: 'embedings' means no parameter of LlamaForCausalLM; expected"),
        ({"freeze": ["*"]}, "student.freeze: leaves no parameter to train"),
        ({"lora": {"targets": ["*.q_prj"]}}, "the pattern '*.q_prj' means no linear layer of LlamaForCausalLM"),
        (
            {"lora": {"targets": ["lm_*"]}},
            "the pattern 'lm_*' means no linear layer of LlamaForCausalLM but the head's",
        ),
        ({"lora": {"quantize": "nf4"}}, "student.lora.quantize: 4 bits need an NVIDIA or AMD GPU"),
        ({"lora": {"targets": ["q_prj"]}}, "has no linear layer 'q_prj'; did you mean 'q_proj'?"),
        ({"lora": {"targets": ["embed_tokens"]}}, "has no linear layer 'embed_tokens'"),
        ({"lora": {"targets": ["lm_head"]}}, "'lm_head' is the head, which computes the loss itself"),
        ({"lora": {"train": ["nothing.*"]}}, "student.lora.train: 'nothing.*' means no parameter"),
        ({"liger": True}, "student.liger: its kernels need a GPU; set it to auto or false"),
    ],
)
def test_what_does_not_fit_is_named_with_and_without_parameters(base, block, message):
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build(base[0], **block)
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=re.escape(message)):
        check_student(StudentConfig(pretrained=base[0], **block), CPU, torch.float32)


def test_every_layer_is_named_in_full_where_the_head_shares_its_name():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.ModuleDict({"output": nn.Linear(2, 2), "query": nn.Linear(2, 2)})
            self.output = nn.Linear(2, 3)

        def get_output_embeddings(self):
            return self.output

    assert adapters.resolve_targets(Model(), LoraConfig()) == ["layer.output", "layer.query"]


def test_without_peft_lora_is_refused_and_nothing_else(base, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    build(base[0], freeze=["embeddings", "head"])
    with pytest.raises(InputError, match=r"needs peft; install it with pip install 'tracestill\[lora\]'"):
        build(base[0], lora={})


# ---- how it computes


def kept_bytes(student: Student) -> int:
    """Bytes of distinct activations kept for backward; parameters do not count."""
    own = {p.untyped_storage().data_ptr() for p in student.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    alive = []  # so that no storage is given to another tensor meanwhile
    with torch.autograd.graph.saved_tensors_hooks(lambda t: alive.append(t) or note(t), lambda t: t):
        student(packed(tiny_step.documents(0)), 1.0)
    return sum(kept.values())


@pytest.mark.parametrize("more", [{}, {"lora": {"dropout": 0.2}}, {"freeze": ["embeddings", "head"]}])
def test_checkpointed_layers_keep_less_and_learn_the_same(base, more):
    plain, student = (build(base[0], activation_checkpointing=wanted, **more) for wanted in (False, True))
    assert plain.model.model.gradient_checkpointing is False
    for one in (plain, student):
        for layer in one.model.model.layers:
            layer.self_attn.attention_dropout = 0.3
    ahead, behind = kept_bytes(plain), kept_bytes(student)
    torch.manual_seed(1)
    loss, expected = gradients(plain)
    torch.manual_seed(1)
    again, found = gradients(student)
    assert again.item() == loss.item()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert behind < 0.6 * ahead, "two layers and the head's own"


@pytest.mark.slow
def test_compiled_layers_learn_the_same_and_lengths_need_no_more_graphs(monkeypatch):
    from torch._dynamo.utils import counters

    monkeypatch.setattr(adapt_module, "BACKEND", "aot_eager")
    for checkpointed in (False, True):
        torch._dynamo.reset()
        counters.clear()
        plain = build(tiny_step.SHAPE)
        student = build(tiny_step.SHAPE, compile=True, activation_checkpointing=checkpointed)
        graphs = []
        for step in range(4):
            (loss, expected), (found_loss, found) = gradients(plain, step), gradients(student, step)
            assert found_loss.item() == pytest.approx(loss.item(), rel=1e-6)
            graphs.append(counters["stats"]["unique_graphs"])
        whole, difference = (
            torch.cat([g.flatten() for g in (expected[n] if d else expected[n] - found[n] for n in expected)]).norm()
            for d in (True, False)
        )
        assert difference < 2e-6 * whole
        assert 0 < graphs[0] < 10, "both layers share them; with attention inside there were 21"
        assert graphs == graphs[:1] * 4
    torch._dynamo.reset()


@pytest.mark.soak
def test_inductor_compiles_the_layers(base):
    plain, student = build(base[0]), build(base[0], compile=True)
    (loss, expected), (found_loss, found) = gradients(plain), gradients(student)
    assert found_loss.item() == pytest.approx(loss.item(), rel=1e-6)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-6)


def test_a_model_without_marked_layers_is_refused(base, monkeypatch):
    monkeypatch.setattr(adapt_module, "GradientCheckpointingLayer", int)
    for key in ("activation_checkpointing", "compile"):
        with pytest.raises(InputError, match=rf"student\.{key}: LlamaForCausalLM has no layers"):
            build(base[0], **{key: True})


def test_the_log_says_what_was_done(base):
    config = StudentConfig(pretrained=base[0], lora={"rank": 2}, activation_checkpointing=True)
    student = build_student(config, vocab_size=61, num_kinds=8, **IDS)
    notes = adapt(student, config, seed=0, device=CPU)
    count = sum(p.numel() for p in student.parameters())
    learning = sum(p.numel() for p in student.parameters() if p.requires_grad)
    assert notes == [f"LoRA of rank 2: {learning:,} of {count:,} parameters learn", "activation checkpointing"]
    again = StudentConfig(pretrained=base[0])
    assert adapt(build_student(again, vocab_size=61, num_kinds=8, **IDS), again, seed=0, device=CPU) == []
    with pytest.raises(InputError, match="is peft's adapter, not a model"):
        adapt(student, again, seed=0, device=CPU)
