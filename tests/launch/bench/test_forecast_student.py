"""What is forecast of a student that learns in part: its FLOPs, its parameters, and what a layer keeps."""

from dataclasses import replace

import pytest
import torch
from fake_run import RECIPE, STUDENT, claim, mini_recipe, run_data_stages
from rich.console import Console
from saved_tensors import saved
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from tracestill.kernels.attention import SDPA, register
from tracestill.launch.bench.bench import Bench
from tracestill.launch.bench.forecast import Student
from tracestill.launch.bench.forecast_student import learning_of
from tracestill.trainer.metrics.flops import cost_of
from tracestill.trainer.recipe.settings import BUCKET
from tracestill.trainer.recipe.student_settings import LoraConfig, StudentConfig
from tracestill.trainer.student.adapt import choose_parameters
from tracestill.trainer.timing.memory import Decoder, Setting, activations, states

TOKENS, RANK = 128, 4
SHAPES = {
    "qwen3": Decoder(3, 32, 96, heads=4, kv_heads=4, head_dim=16, vocabulary=61, tied=False),
    "llama": Decoder(3, 48, 64, heads=6, kv_heads=6, head_dim=8, vocabulary=61, tied=False, qk_norm=False),
}
WAYS = {
    "all adapters": {"lora": LoraConfig(rank=RANK)},
    "adapters of queries and values": {"lora": LoraConfig(rank=RANK, targets=["q_proj", "v_proj"])},
    "adapters of down": {"lora": LoraConfig(rank=RANK, targets=["down_proj"])},
    "frozen embeddings": {"freeze": ["embeddings"]},
    "a frozen beginning": {"freeze": ["embeddings", "model.layers.0.*"]},
    "frozen MLPs": {"freeze": ["*.mlp.*"]},
    "frozen norms": {"freeze": ["*norm*"]},
}


def model(name, way):
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
    built = AutoModelForCausalLM.from_config(config, attn_implementation=register(SDPA), dtype=torch.float32).train()
    own = StudentConfig(config={"model_type": name}) if "freeze" in WAYS[way] else StudentConfig(pretrained="here")
    choose_parameters(built, own.model_copy(update=WAYS[way]), seed=0)
    return built


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_kept_is_what_autograd_keeps_but_for_the_first_layer(name, way):
    """A first layer whose input needs no gradient keeps a little less than the model says: at most its norm's input,
    queries and keys before their norms, and what only the other half of it needs."""
    if "lora" in WAYS[way]:
        pytest.importorskip("peft")
    built, decoder = model(name, way), SHAPES[name]
    first = cost_of(built).first
    learning = learning_of(built.model.layers, first, head=True)
    found = activations(decoder, Setting(TOKENS, bytes=4, learning=learning))["kept"]
    reached = decoder.layers - first
    normalised = built.model.norm.weight.requires_grad
    final = TOKENS * ((2 if normalised else 1) * 4 * decoder.hidden + 4)
    copies = TOKENS * reached * 4 * decoder.query  # the CPU's attention copies its output
    exact = saved(built, TOKENS)
    whole = activations(decoder, Setting(TOKENS, bytes=4))["kept"] / decoder.layers
    embedded = built.get_input_embeddings().weight.requires_grad
    if embedded:
        assert exact == pytest.approx(found + final + copies, rel=1e-3)
    else:
        assert found + final + copies - whole < exact <= (found + final + copies) * 1.001


def test_the_elements_that_learn_are_all_that_has_gradients_and_moments():
    decoder = SHAPES["llama"]
    learning = replace(learning_of([], 0, head=False), trained=1000, added=600)
    for zero in range(4):
        whole = states(decoder, Setting(1, ranks=2, zero=zero, bytes=4))
        part = states(decoder, Setting(1, ranks=2, zero=zero, bytes=4, learning=learning))
        share = 2 if zero == 3 else 1
        assert part["parameters"] == 4 * (decoder.parameters + 600) // share
        assert part["parameters"] == whole["parameters"] + 4 * 600 // share
        assert part["gradients"] == (4 * 1000 // 2 if zero >= 2 else 4 * 1000)
        assert part["optimizer"] == (12 * 500 if zero else 8 * 1000)


def student_of(tmp_path, **changes):
    run = claim(tmp_path / "run", mini_recipe(**changes))
    run_data_stages(run)
    return Student.of(Bench(run, "traces", None, 1, 1, Console(quiet=True)))


def test_a_frozen_part_has_no_gradients_to_send_and_no_moments(tmp_path):
    frozen = ["embeddings", "head", "model.layers.0.*"]
    student = student_of(tmp_path, student={**RECIPE["student"], "freeze": frozen}, arms={})
    (task, *_) = student.tasks(256, 2, 2, 2, 4, recompute=False)
    whole = student_of(tmp_path / "whole", arms={})
    assert student.parameters == task.parameters == whole.parameters == whole.trained
    assert task.trained == student.trained == STUDENT["hidden_size"], "the last norm"
    setting = Setting(256, ranks=2, zero=2, bytes=4, chunk_rows=student.recipe.train.chunk_rows)
    part = states(student.decoder, replace(setting, learning=student.learning))
    own = student.trained // 2  # of one of two ranks: gradients; a master copy and two moments
    assert (part["gradients"], part["optimizer"]) == (4 * own, 12 * own)
    found = [one.memory_gib(256, 2, 2, 4, recompute=False) for one in (student, whole)]
    assert 4 * student.parameters / 2**30 < found[0] < found[1]
    assert not student.learning.head


@pytest.mark.parametrize(
    ("keys", "own"),
    [
        ({}, (None, None)),
        ({"use_multi_rank_bucket_allreduce": True}, (None, False)),
        ({"use_multi_rank_bucket_allreduce": False, "reduce_bucket_size": 10**6}, (10**6, True)),
    ],
)
def test_the_recipes_own_buckets_are_heeded_where_deepspeed_heeds_them(tmp_path, keys, own):
    student = student_of(tmp_path, deepspeed={"zero_optimization": keys}, arms={})

    def found(zero, number, student=student):
        (task, *_) = student.tasks(256, 2, 2, zero, number, recompute=False)
        return task.bucket, task.to_owners

    heeding = [(1, 4), (2, 2), (2, 4), (3, 2), (3, 4)]
    assert [found(*case) for case in heeding] == [own] * 5
    assert [found(*case) for case in ((0, 4), (1, 2))] == [(BUCKET, False)] * 2, "all-reduced at once by another class"
    held = student.memory_gib(256, 2, 2, 4, recompute=False)
    student.recipe.deepspeed["zero_optimization"]["reduce_bucket_size"] = 2**28
    assert student.memory_gib(256, 2, 2, 4, recompute=False) > 1 > held
    student.recipe.deepspeed["zero_optimization"]["reduce_bucket_size"] = 1
    assert -(-student.trained // found(2, 4)[0]) <= len(student.sizes), "no tensor is cut"


def test_adapters_are_among_the_parameters_and_alone_learn(tmp_path):
    pytest.importorskip("peft")
    h, f, key, layers = 32, 64, 16, 2
    config = LlamaConfig(
        hidden_size=h,
        intermediate_size=f,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=320,
        tie_word_embeddings=True,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "start")
    block = {"pretrained": str(tmp_path / "start"), "lora": {"rank": RANK}}
    student = student_of(tmp_path, student=block, arms={})
    each = RANK * ((h + h) + 2 * (h + key) + (h + h) + 2 * (h + f) + (f + h))
    assert student.trained == layers * each == student.learning.added
    assert student.parameters == student.decoder.parameters + student.trained
    assert {layer.ranks for layer in student.learning.layers} == {7 * RANK}
    alone = student.memory_gib(256, 1, 2, 4, recompute=False)
    student.learning = None
    assert alone < student.memory_gib(256, 1, 2, 4, recompute=False)
