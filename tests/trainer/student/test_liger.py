"""Whether Liger's kernels go in, and which of its switches are set. Its kernels need a GPU: here stands a fake."""

from __future__ import annotations

import importlib.util
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.student import liger
from tracestill.trainer.student.liger import choose_liger, use_liger

GPU, CPU = torch.device("cuda"), torch.device("cpu")


@pytest.fixture
def called(monkeypatch) -> list[dict[str, Any]]:
    """Liger with functions for two types of models; what they were called with."""
    calls: list[dict[str, Any]] = []

    def llama(
        rope: bool = True,
        cross_entropy: bool = False,
        fused_linear_cross_entropy: bool = True,
        rms_norm: bool = True,
        swiglu: bool = True,
        model: Any = None,
    ) -> None:
        calls.append({k: v for k, v in locals().items() if k != "calls"})

    def other(layer_norm: bool = True, fused_linear_cross_entropy: bool = True, model: Any = None) -> None:
        raise AssertionError("it has none of the three")

    monkeypatch.setattr(liger, "functions", lambda: {"llama": llama, "other": other})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    return calls


def test_on_a_gpu_the_three_go_in_and_its_losses_do_not(called):
    assert choose_liger("auto", "llama", GPU) == choose_liger(True, "llama", GPU)
    assert choose_liger("auto", "llama", GPU) == (True, "Liger's rope, rms_norm, swiglu")
    config = SimpleNamespace(get_text_config=lambda decoder: SimpleNamespace(model_type="llama"))
    model = SimpleNamespace(config=config)
    use_liger(model)  # type: ignore[arg-type]
    flags = {"rope": True, "rms_norm": True, "swiglu": True}
    assert called == [{**flags, "cross_entropy": False, "fused_linear_cross_entropy": False, "model": model}]


@pytest.mark.parametrize(
    ("device", "model_type", "installed", "message", "note"),
    [
        (CPU, "llama", True, "its kernels need a GPU", ""),
        (GPU, "llama", False, "needs liger-kernel (pip install 'tracestill[gpu]')", "no Liger (needs liger-kernel"),
        (GPU, "other", True, "Liger has no RMSNorm, RoPE or SwiGLU for model type 'other'", "no Liger (Liger has no"),
        (GPU, "unknown", True, "Liger has no RMSNorm, RoPE or SwiGLU for model type 'unknown'", "no Liger (Liger has"),
    ],
)
def test_where_it_cannot_be_used_auto_goes_without_and_true_is_refused(
    called, monkeypatch, device, model_type, installed, message, note
):
    if not installed:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    found = choose_liger("auto", model_type, device)
    assert not found.used
    assert found.reason.startswith(note)
    assert bool(found.reason) == bool(note)
    with pytest.raises(InputError, match=re.escape(f"student.liger: {message}; set it to auto or false")):
        choose_liger(True, model_type, device)
    assert choose_liger(False, model_type, device) == (False, "")


@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
def test_the_installed_liger_has_the_switches_that_are_set(model_type):
    """Its functions are looked at, not called: without a GPU their kernels do not run."""
    pytest.importorskip("liger_kernel.transformers.monkey_patch", exc_type=ImportError)
    found = liger.flags(liger.functions()[model_type])
    assert {*liger.USED, "cross_entropy", "fused_linear_cross_entropy"} <= {*found}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_ligers_kernels_give_the_models_own_logits(monkeypatch):
    pytest.importorskip("liger_kernel")
    import tiny_export
    from transformers.models.llama import modeling_llama

    for name in ("apply_rotary_pos_emb", "LlamaRMSNorm", "LlamaMLP"):  # Liger replaces them for good
        monkeypatch.setattr(modeling_llama, name, getattr(modeling_llama, name))
    plain, model = tiny_export.tiny_model().cuda(), tiny_export.tiny_model().cuda()
    ids = torch.arange(5, 21, device="cuda")[None]
    expected = plain(ids).logits
    use_liger(model)
    torch.testing.assert_close(model(ids).logits, expected, rtol=1e-4, atol=1e-4)
