"""Which backend a model gets on a machine, and why."""

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

from tracestill.kernels.attention import BACKENDS, SDPA, Needs, choose, needs_of

BY_NAME = {backend.name: backend for backend in BACKENDS}
MODULES = {
    "flash-4": ["flash_attn", "flash_attn.cute", "cutlass", "quack"],
    "flash-3": ["flash_attn_interface"],
    "flash-2": ["flash_attn", "flash_attn_2_cuda"],
    "varlen": ["torch.nn.attention.varlen"],
}
CUDA, BF16 = "cuda", torch.bfloat16


def pretend(monkeypatch, capability, installed, hip=None):
    """A machine with a CUDA device of some compute capability, and these backends' packages alone."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    there = {module for name in installed for module in MODULES[name]}
    for module in {module for modules in MODULES.values() for module in modules}:
        fake = ModuleType(module) if module in there else None
        if fake is not None:
            fake.__spec__, fake.__path__ = ModuleSpec(module, None), []
        monkeypatch.setitem(sys.modules, module, fake)


@pytest.mark.parametrize(
    ("capability", "installed", "needs", "best"),
    [
        ((8, 0), {"flash-2", "varlen"}, {}, "flash-2"),
        ((8, 9), {"flash-3", "flash-4", "varlen"}, {}, "varlen"),
        ((9, 0), {"flash-2", "flash-3", "varlen"}, {}, "flash-3"),
        ((9, 0), set(MODULES), {}, "flash-4"),
        ((10, 0), {"flash-2", "flash-3", "varlen"}, {}, "flash-2"),
        ((12, 0), {"flash-4", "varlen"}, {}, "varlen"),
        ((9, 0), {"varlen"}, {}, "varlen"),
        ((7, 5), {"flash-2", "varlen"}, {}, "sdpa"),
        ((9, 0), set(), {}, "sdpa"),
        # what a model needs
        ((9, 0), set(MODULES), {"dropout": "attention_dropout=0.1"}, "flash-2"),
        ((9, 0), {"flash-3", "varlen"}, {"dropout": "attention_dropout=0.1"}, "sdpa"),
        ((9, 0), set(MODULES), {"window": "w", "gqa": "g", "head_dim": 128}, "flash-4"),
        ((9, 0), set(MODULES), {"head_dim": 256}, "flash-3"),
        ((9, 0), set(MODULES), {"head_dim": 512}, "sdpa"),
        ((9, 0), set(MODULES), {"value_dim": "v_head_dim=128"}, "sdpa"),
        ((9, 0), {"varlen", "flash-2"}, {"softcap": "attn_logit_softcapping=50.0"}, "flash-2"),
        ((9, 0), set(MODULES), {"softcap": "attn_logit_softcapping=50.0"}, "flash-3"),
        ((9, 0), set(MODULES), {"head_dim": 24, "head_divisor": 8}, "flash-4"),
        ((9, 0), set(MODULES), {"head_dim": 20, "head_divisor": 20}, "flash-2"),  # the others' kernels refuse it
        ((9, 0), {"flash-3", "flash-4", "varlen"}, {"head_dim": 24, "head_divisor": 4}, "sdpa"),
    ],
)
def test_auto_takes_the_first_backend_that_can(monkeypatch, capability, installed, needs, best):
    pretend(monkeypatch, capability, installed)
    choice = choose("auto", CUDA, BF16, Needs(**needs))
    assert choice.backend is BY_NAME[best]
    names = [backend.name for backend in BACKENDS]
    assert names == ["flash-4", "flash-3", "flash-2", "varlen", "sdpa"], "the order of preference"
    assert all(name in choice.reason for name in names[: names.index(best)])


def test_auto_on_a_cpu_or_in_fp32_is_sdpa(monkeypatch):
    pretend(monkeypatch, (9, 0), set(MODULES))
    for device, dtype, why in (("cpu", BF16, "runs on cuda, not on 'cpu'"), (CUDA, torch.float32, "not float32")):
        choice = choose("auto", device, dtype)
        assert choice.backend is SDPA
        assert "flash-4, flash-3, flash-2, varlen: " in choice.reason, "one reason is said once"
        assert why in choice.reason
    assert choose("sdpa", CUDA, BF16) == (SDPA, "as asked for")


def test_amd_has_flash_2_alone(monkeypatch):
    pretend(monkeypatch, (9, 0), set(MODULES), hip="6.2")
    choice = choose("auto", CUDA, BF16)
    assert choice.backend.name == "flash-2"
    assert "flash-4, flash-3: needs an NVIDIA device" in choice.reason
    with pytest.raises(ValueError, match="'varlen' cannot run: it needs an NVIDIA device; use flash-2, sdpa"):
        choose("varlen", CUDA, BF16)
    assert choose("sdpa", CUDA, BF16).backend is SDPA


@pytest.mark.parametrize(
    ("name", "device", "dtype", "capability", "needs", "message"),
    [
        ("flash", "cpu", torch.float32, (9, 0), {}, "unknown attention backend 'flash'; known: auto, flash-4"),
        ("flash-2", "cpu", BF16, (9, 0), {}, "'flash-2' cannot run: it runs on cuda, not on 'cpu'; use sdpa"),
        ("flash-2", CUDA, BF16, (9, 0), {}, "not installed; pip install flash-attn --no.*; use varlen, sdpa"),
        ("flash-4", CUDA, BF16, (9, 0), {}, "not installed; pip install 'flash-attn-4>="),
        ("flash-4", CUDA, BF16, (8, 0), {}, "not installed"),
        ("varlen", CUDA, torch.float32, (9, 0), {}, "takes bfloat16 or float16, not float32; train in bf16"),
        ("varlen", CUDA, BF16, (7, 5), {}, r"needs compute capability 8\.0 or later; this device has 7\.5"),
        (
            "varlen",
            CUDA,
            BF16,
            (9, 0),
            {"head_dim": 20, "head_divisor": 20},
            "has only heads of multiples of 8 .*head_dim=20.; use",
        ),
        ("varlen", CUDA, BF16, (9, 0), {"dropout": "d=0.1"}, r"has no dropout \(d=0.1\); use sdpa"),
        ("varlen", CUDA, BF16, (9, 0), {"softcap": "cap=5"}, "has no softcap .cap=5.; use flash-3 on cuda, flash-2 on"),
        ("auto", "cpu", BF16, (9, 0), {"softcap": "c"}, "varlen: runs on cuda, not on 'cpu'; sdpa: has no softcap"),
        ("auto", CUDA, BF16, (9, 0), {"softcap": "c"}, "flash-4, varlen, sdpa: has no softcap .c.; flash-3: is not"),
    ],
)
def test_an_impossible_choice_says_what_would_help(monkeypatch, name, device, dtype, capability, needs, message):
    pretend(monkeypatch, capability, {"varlen"})
    with pytest.raises(ValueError, match=message):
        choose(name, device, dtype, Needs(**needs))


@pytest.mark.parametrize(("name", "wanted"), [("flash-3", r"9\.x"), ("flash-4", r"9\.0 to 10\.x")])
def test_a_device_may_be_too_new(monkeypatch, name, wanted):
    pretend(monkeypatch, (12, 0), {name})
    with pytest.raises(ValueError, match=rf"needs compute capability {wanted}; this device has 12\.0"):
        choose(name, CUDA, BF16)


@pytest.mark.parametrize(
    ("family", "changes", "wanted"),
    [
        ("llama", {"hidden_size": 64, "num_attention_heads": 4}, {"head_dim": 16}),
        ("llama", {"attention_dropout": 0.1, "head_dim": 24}, {"dropout": "attention_dropout=0.1", "head_dim": 24}),
        ("llama", {"hidden_size": 60, "num_attention_heads": 3}, {"head_dim": 20, "head_divisor": 20}),
        ("mistral", {"sliding_window": 7}, {"window": "sliding_window=7", "gqa": "num_key_value_heads=8"}),
        ("mistral", {"sliding_window": None}, {"window": ""}),
        ("qwen2", {"sliding_window": 7, "use_sliding_window": False}, {"window": "", "gqa": ""}),
        ("gemma3_text", {"sliding_window": 9}, {"window": "sliding_window=9", "softcap": ""}),
        ("gemma3_text", {"layer_types": ["full_attention"] * 26}, {"window": ""}),
        ("gemma2", {}, {"softcap": "attn_logit_softcapping=50.0", "head_dim": 256}),
        ("gpt2", {"attn_pdrop": 0.0}, {"dropout": "", "head_dim": 64}),
        ("gpt2", {}, {"dropout": "attn_pdrop=0.1"}),
        ("deepseek_v3", {}, {"value_dim": "v_head_dim=128", "head_dim": 192, "head_divisor": 64}),
        ("gemma4_text", {}, {"head_dim": 512, "value_dim": ""}),  # its layers differ
    ],
)
def test_what_a_model_needs_is_read_from_its_config(family, changes, wanted):
    if family not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {family}")
    found = needs_of(CONFIG_MAPPING[family](**changes))
    assert {name: getattr(found, name) for name in wanted} == wanted


def test_a_config_of_somebodys_own_may_say_it_layer_by_layer():
    class Own(transformers.PretrainedConfig):
        model_type = "own"

    lists = {"num_attention_heads": [4, 2], "num_key_value_heads": [4, 1], "sliding_window": [0, 9]}
    found = needs_of(Own(hidden_size=48, **lists))
    assert found == Needs(window="sliding_window=9", gqa="num_key_value_heads=1", head_dim=24, head_divisor=12)
    assert needs_of(Own(num_attention_heads=4)) == Needs(), "no size is known"
