"""FLOPs against PyTorch's own counter, and what is not counted."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from tracestill.trainer.metrics.flops import cost_of, peak_tflops
from tracestill.trainer.recipe.student_settings import LoraConfig
from tracestill.trainer.student import adapters
from tracestill.trainer.student.adapt import checkpoint_activations

LENGTH, VOCABULARY = 37, 101
SIZES = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": SIZES,
    "qwen3": {**SIZES, "head_dim": 24},  # heads wider than the hidden state, norms of queries and keys
    "gemma3_text": {**SIZES, "head_dim": 24, "sliding_window": 8},
    "mistral": {**SIZES, "sliding_window": 8},
    "gpt2": {"n_embd": 48, "n_layer": 3, "n_head": 4},  # another class of matrix, biases, no gate
}


def model(kind, **sizes):
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, vocab_size=VOCABULARY, **ids, **sizes)
    return AutoModelForCausalLM.from_config(config, attn_implementation="eager")


def counted(of):
    """FLOPs of a forward and backward pass on one document; eager attention computes all L^2 pairs."""
    with FlopCounterMode(display=False) as counter:
        of(input_ids=torch.arange(LENGTH)[None], use_cache=False).logits.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("kind", MODELS)
def test_matrices_and_attention_cost_what_pytorch_counts(kind):
    of = model(kind, **MODELS[kind])
    cost = cost_of(of)
    all_pairs = len(cost.windows) * cost.attention * LENGTH**2
    assert cost.linear * LENGTH + cost.head * LENGTH + all_pairs == counted(of)


def test_a_frozen_matrix_needs_no_gradient_of_its_own():
    of = model("llama", **SIZES)
    for layer in of.model.layers:
        layer.mlp.requires_grad_(False)
    cost = cost_of(of)
    assert (cost.linear + cost.head) * LENGTH + 3 * cost.attention * LENGTH**2 == counted(of)


def test_adapters_cost_what_pytorch_counts_but_for_the_first_layers_inputs():
    pytest.importorskip("peft")
    of = model("llama", **SIZES)
    adapters.inject(of, LoraConfig(rank=4), seed=0, base=None)
    cost = cost_of(of)
    needless = 2 * (48 * (48 + 24 + 24) + 3 * 4 * 48)  # of q, k, v and their adapters: embeddings are frozen
    assert (cost.linear + cost.head - needless) * LENGTH + 3 * cost.attention * LENGTH**2 == counted(of)


@pytest.mark.parametrize("frozen", [1, 2])
def test_layers_below_all_that_learns_have_a_forward_pass_only(frozen):
    of = model("llama", **SIZES)
    of.get_input_embeddings().requires_grad_(False)
    for layer in of.model.layers[:frozen]:
        layer.requires_grad_(False)
    cost = cost_of(of)
    assert cost.first == frozen
    pairs = (frozen / 3 + (3 - frozen)) * cost.attention * LENGTH**2
    # the first layer that learns has a norm that does: its matrices' inputs get gradients as anywhere else
    assert (cost.linear + cost.head) * LENGTH + pairs == counted(of)


def test_adapters_above_frozen_layers_cost_what_pytorch_counts():
    pytest.importorskip("peft")
    of = model("llama", **SIZES)
    adapters.inject(of, LoraConfig(rank=4, targets=["down_proj"]), seed=0, base=None)
    for layer in of.model.layers[:2]:
        layer.requires_grad_(False)
    cost = cost_of(of)
    assert cost.first == 2
    # of the third layer only the adapter and what follows it need gradients
    spared = 2 * (48 * (48 + 24 + 24) + 48 * 48 + 3 * 48 * 80) + 2 * 4 * 80
    pairs = 3 / 3 * cost.attention * LENGTH**2
    assert (cost.linear + cost.head - spared) * LENGTH + pairs == counted(of)


def test_a_student_whose_head_alone_learns_goes_backwards_through_no_layer():
    of = model("llama", **SIZES, tie_word_embeddings=False)
    of.model.requires_grad_(False)
    cost = cost_of(of)
    needless = 2 * 48 * VOCABULARY  # the gradient of the hidden states, which nobody needs
    assert cost.first == 3
    assert (cost.linear + cost.head - needless) * LENGTH + cost.attention * LENGTH**2 == counted(of)


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_recomputing_layers_costs_what_pytorch_counts(kind):
    of = model("llama", **SIZES)
    if kind == "lora":
        pytest.importorskip("peft")
        adapters.inject(of, LoraConfig(rank=4), seed=0, base=None)
    plain = counted(of)
    of.train()
    checkpoint_activations(of)
    cost, lengths = cost_of(of), np.array([LENGTH])
    all_pairs, seen = LENGTH**2, LENGTH * (LENGTH + 1) / 2
    more = cost.of(lengths, recompute=True) - cost.of(lengths) + cost.attention * (all_pairs - seen)
    assert counted(of) - plain == more


@pytest.mark.parametrize("window", [None, 8, 40])
def test_pairs_are_those_that_see_each_other_in_their_own_document(window):
    lengths = np.array([1, 7, 8, 9, 37], dtype=np.int32)
    cost = cost_of(model("mistral", **SIZES, sliding_window=window))
    pairs = sum(1 for n in lengths for q in range(n) for k in range(q + 1) if window is None or q - k < window)
    assert cost.attention == 12 * 4 * 12
    assert cost.of(lengths) == cost.linear * lengths.sum() + 3 * cost.attention * pairs


def test_layers_may_see_unequally_far():
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    cost = cost_of(model("gemma3_text", **SIZES, head_dim=24, sliding_window=8, layer_types=kinds))
    assert cost.windows == (8, None, 8)
    seen = 37 * 38 // 2
    near = seen - 29 * 30 // 2
    assert cost.of(np.array([37])) == cost.linear * 37 + cost.attention * (seen + 2 * near)


@pytest.mark.parametrize(
    ("kind", "sizes"),
    [
        ("mixtral", SIZES),
        ("qwen3_moe", {**SIZES, "num_experts": 4, "num_experts_per_tok": 2}),
        ("deepseek_v3", SIZES),
        ("mamba", {"hidden_size": 48, "num_hidden_layers": 1}),
    ],
)
def test_what_these_formulas_do_not_describe_has_no_cost(kind, sizes):
    assert cost_of(model(kind, **sizes)) is None


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H200", 989),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A10", 125),
        ("NVIDIA A10G", None),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA GB200", 2500),
        ("NVIDIA GeForce RTX 4090", 165),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_is_known_by_its_whole_name(monkeypatch, name, peak):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert peak_tflops(torch.device("cuda", 0), torch.bfloat16) == peak
    assert peak_tflops(torch.device("cuda", 0), torch.float32) is None
    assert peak_tflops(torch.device("cpu"), torch.bfloat16) is None
