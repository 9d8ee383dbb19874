"""The memory model against what is there: transformers' parameters, autograd's saved tensors, DeepSpeed's states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from distributed_support import run_workers
from saved_tensors import saved
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tracestill.kernels.attention import SDPA, register
from tracestill.trainer.student.tiled_mlp import tile_mlps
from tracestill.trainer.timing.memory import QWEN3_0_6B, Decoder, Learning, Setting, activations, estimate, host, states

WORKER = Path(__file__).with_name("memory_worker.py")
TOKENS = 256
SHAPES = {
    "qwen3": Decoder(2, 32, 96, heads=4, kv_heads=4, head_dim=16, vocabulary=61),
    "llama": Decoder(3, 48, 64, heads=6, kv_heads=6, head_dim=8, vocabulary=61, tied=False, qk_norm=False),
}


def model(name):
    decoder = SHAPES[name]
    config = (Qwen3Config if name == "qwen3" else LlamaConfig)(
        hidden_size=decoder.hidden,
        intermediate_size=decoder.intermediate,
        num_hidden_layers=decoder.layers,
        num_attention_heads=decoder.heads,
        num_key_value_heads=decoder.kv_heads,
        head_dim=decoder.head_dim,
        vocab_size=decoder.vocabulary,
        tie_word_embeddings=decoder.tied,
    )
    return AutoModelForCausalLM.from_config(config, attn_implementation=register(SDPA), dtype=torch.float32).train()


@pytest.mark.parametrize("name", SHAPES)
def test_parameters_are_counted_as_transformers_has_them(name):
    assert SHAPES[name].parameters == sum(p.numel() for p in model(name).parameters())


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("tiles", [1, 4])
def test_what_is_kept_for_the_backward_pass(name, tiles):
    built = model(name)
    if tiles > 1:
        tile_mlps(built, tiles, TOKENS)
    decoder = SHAPES[name]
    final = TOKENS * (2 * 4 * decoder.hidden + 4)  # the last norm's own
    copies = TOKENS * decoder.layers * 4 * decoder.query  # the CPU's attention copies its output
    kept = activations(decoder, Setting(TOKENS, bytes=4, tiles=tiles))["kept"]
    assert saved(built, TOKENS) == pytest.approx(kept + final + copies, rel=1e-3)


def test_a_row_that_ranks_share_costs_each_its_part():
    alone = Setting(131_072, recompute=True, tiles=8)
    for parts in (2, 4, 8):
        shared = replace(alone, ranks=parts, sequence_parallel=parts)
        both = [activations(QWEN3_0_6B, setting) for setting in (alone, shared)]
        assert both[1]["kept"] == pytest.approx(both[0]["kept"] / parts)
        assert both[0]["working"] / parts <= both[1]["working"] <= 1.5 * both[0]["working"] / parts
        assert estimate(QWEN3_0_6B, shared)["peak"] < estimate(QWEN3_0_6B, alone)["peak"]


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [1, 2])
def test_states_are_those_that_deepspeed_holds(ranks, tmp_path):
    run_workers(WORKER, tmp_path, ranks=0 if ranks == 1 else ranks)
    decoder = Decoder(4, 96, 384, heads=4, kv_heads=2, head_dim=24, vocabulary=61, tied=False, qk_norm=False)
    for case in json.loads((tmp_path / f"held-{ranks}.json").read_text()):
        assert case["parameters"] == decoder.parameters
        size = 4 if case["precision"] == "fp32" else 2
        stage, optimizer, parameters, *_ = *str(case["zero"]).split("-"), "none", "none"
        hosted = {"host_optimizer": optimizer == "cpu", "host_parameters": parameters == "cpu"}
        setting = Setting(1, ranks=ranks, zero=int(stage), bytes=size, **hosted)
        if case["trained"] < case["parameters"]:
            setting = replace(setting, learning=Learning((), trained=case["trained"]))
        expected = states(decoder, setting)
        most = sum(expected.values()) + host(decoder, setting)
        assert (most - expected["buckets"]) * 0.99 <= case["held"] <= most * 1.01, case
