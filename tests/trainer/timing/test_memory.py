"""The memory model against what is there: transformers' parameters, autograd's saved tensors, DeepSpeed's states."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from distributed_support import run_workers
from fake_run import mini_recipe
from saved_tensors import saved
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tracestill.data_pipeline.base.errors import InputError
from tracestill.kernels.attention import SDPA, register
from tracestill.launch.start.cpu_ranks import bytes_of_rank
from tracestill.trainer.engine import stage
from tracestill.trainer.student.check import elements_in
from tracestill.trainer.student.tiled_mlp import tile_mlps
from tracestill.trainer.timing.memory import QWEN3_0_6B, Decoder, Learning, Setting, activations, estimate, host, states
from tracestill.trainer.timing.own_texts import own_texts

WORKER = Path(__file__).with_name("memory_worker.py")
STEPPED = Decoder(4, 96, 384, heads=4, kv_heads=2, head_dim=24, vocabulary=61, tied=False, qk_norm=False)  # there
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


def test_buckets_are_those_that_the_engine_has_by_default_and_by_the_recipe(tmp_path):
    n, own = STEPPED.parameters, 5_000_000
    run_workers(WORKER, tmp_path, own)
    cases = json.loads((tmp_path / "held-1.json").read_text())
    assert [case["bucket"] for case in cases] == [n, own]
    for case, bucket in zip(cases, (None, own), strict=True):
        expected = states(STEPPED, Setting(1, zero=3, bytes=4, bucket=bucket))
        assert expected["buckets"] == 4 * case["bucket"], "DeepSpeed has all of it, however little learns"
        assert case["held"] == pytest.approx(sum(expected.values()), rel=0.01)
    half = [states(STEPPED, Setting(1, zero=zero, bucket=7))["buckets"] for zero in (1, 2)]
    assert half == [2 * n, (2 + 4) * 61 * 96], "one knows nothing of it, and no tensor is cut"
    recipes = [mini_recipe(arms={}, deepspeed={"zero_optimization": raw}) for raw in ({}, {"reduce_bucket_size": own})]
    plain, set_so = (bytes_of_rank(recipe, 1) for recipe in recipes)
    assert 4 * (own - 20_000) < set_so - plain < 4 * own


@pytest.mark.soak
@pytest.mark.parametrize("ranks", [1, 2])
def test_states_are_those_that_deepspeed_holds(ranks, tmp_path):
    run_workers(WORKER, tmp_path, ranks=0 if ranks == 1 else ranks)
    decoder = STEPPED
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


def test_a_teacher_lies_whole_on_every_rank_and_texts_need_room_between_two_steps():
    """Qwen3-0.6B beside a student of its own shape, whose head and activations are larger than what it writes."""
    teacher = QWEN3_0_6B.parameters
    for zero in (1, 2, 3):
        plain = Setting(4096, ranks=8, zero=zero, recompute=True)
        alone = estimate(QWEN3_0_6B, plain)
        followed = estimate(QWEN3_0_6B, replace(plain, beside=teacher))
        assert followed["peak"] - alone["peak"] == followed["beside"] == 2 * teacher
        writes = replace(plain, texts=64, text_tokens=4096)
        kept = 2 * 2 * (8 * 128) * 28 * 64 * 4096 * 5 // 4  # keys and values, bf16, a quarter ahead
        drawn = 3 * 4 * 64 * 151_936
        states_alone = sum(alone[name] for name in ("parameters", "gradients", "optimizer"))
        whole = 2 * teacher if zero == 3 else 0
        assert estimate(QWEN3_0_6B, writes)["peak"] == states_alone + kept + drawn + whole
        few = estimate(QWEN3_0_6B, replace(plain, texts=1, text_tokens=128))
        assert few["peak"] == alone["peak"], "a step needs more"


def test_the_teacher_is_counted_as_transformers_has_it(tmp_path):
    built = model("llama")
    built.save_pretrained(tmp_path)
    assert elements_in(tmp_path) == sum(parameter.numel() for parameter in built.parameters())
    with pytest.raises(InputError, match=r"^train.on_policy.teacher: .*nowhere"):
        elements_in(tmp_path / "nowhere")
    own = {"teacher": str(tmp_path), "k": 7, "questions": 5, "samples": 3, "max_new_tokens": 9}

    def told_of(own):
        return mini_recipe(arms={}, train={"steps": 4, "on_policy": own}, evaluate={"batch_size": 8})

    recipe = told_of(own)
    held = {"beside": elements_in(tmp_path), "entries": 7, "text_tokens": 9}
    assert own_texts(recipe, 1) == {**held, "texts": 8}
    assert own_texts(recipe, 4) == {**held, "texts": 6}, "two questions a rank"
    shared = told_of({**own, "teacher": {"model": str(tmp_path), "zero": 3}})
    assert [own_texts(shared, ranks)["beside"] for ranks in (1, 2, 3)] == [
        held["beside"],
        -(-held["beside"] // 2),
        -(-held["beside"] // 3),
    ]
    assert bytes_of_rank(recipe, 4) - bytes_of_rank(shared, 4) == 4 * (held["beside"] - -(-held["beside"] // 4))
    served = {"model": str(tmp_path / "nowhere"), "server": {"url": "http://localhost:8000/v1"}}
    assert own_texts(told_of({**own, "teacher": served}), 2) == {**held, "beside": 0, "texts": 8}
    few = recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"batch_tokens": 30})})
    assert own_texts(few, 1)["texts"] == 3
    assert own_texts(mini_recipe(arms={}), 1) == {}
    without = recipe.model_copy(update={"train": mini_recipe(arms={}).train})
    more = bytes_of_rank(recipe, 1) - bytes_of_rank(without, 1)
    assert more == pytest.approx(4 * held["beside"] + 2 * 6 * 7 * recipe.plan.capacity)


def test_the_stage_is_chosen_for_what_a_teacher_leaves(tmp_path, monkeypatch):
    model("llama").save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr(stage, "choose_stage", lambda room, **more: asked.append(room) or (2, "told"))
    monkeypatch.setattr(stage.dist, "all_reduce", lambda tensor, op: None)
    monkeypatch.setattr(stage.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(stage, "find_placement", lambda: SimpleNamespace(ranks=[[0, 1]]))
    shared = {"model": str(tmp_path), "zero": 3}
    served = {"model": "large", "server": {"url": "http://localhost:8000/v1"}}
    for own in (None, *({"teacher": teacher} for teacher in ("none", served, str(tmp_path), shared))):
        settings = mini_recipe(arms={}, train={"steps": 4, "zero": "auto", "on_policy": own}).train
        stage.resolve_stage(torch.nn.Linear(2, 2), settings, torch.device("cpu"), torch.float32)
    every = elements_in(tmp_path)
    assert [asked[0] - room for room in asked] == [0, 0, 0, 4 * every, 4 * -(-every // 2)]
