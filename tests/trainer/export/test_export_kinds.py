"""Each kind of adapter, exported merged and apart: the trainer's logits, by plain transformers and by peft itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tiny_export import save_tokenizer
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from tracestill.data_pipeline.base.errors import InputError
from tracestill.trainer.export.adapted import export_trained
from tracestill.trainer.loading import four_bits
from tracestill.trainer.recipe.student_settings import LoraConfig, StudentConfig, check_together
from tracestill.trainer.student.adapt import adapt
from tracestill.trainer.student.adapters import merge, plain_name
from tracestill.trainer.student.student import Student, build_student

IDS = torch.arange(20)[None]
KINDS: dict[str, dict[str, Any]] = {
    "pattern": {"targets": ["*.q_proj", "model.layers.1.mlp.*"]},
    "rslora": {"rslora": True, "targets": ["v_proj"]},
    "dora": {"dora": True},
    "both": {"dora": True, "rslora": True, "targets": ["*.layers.0.*"]},
    "four bits": {"quantize": "nf4", "targets": ["q_proj", "up_proj"]},
}


FOUR_BITS = {
    "quantization_config": BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    ),
    "dtype": torch.float32,
}


def trained(base: Path, lora: dict[str, Any]) -> tuple[Student, StudentConfig]:
    config = StudentConfig(pretrained=base, lora={"rank": 4, "alpha": 3.0, **lora})
    ids = {"bos_id": 1, "eos_id": 2, "pad_id": 0, "num_kinds": tiny_step.NUM_KINDS}
    student = build_student(config, vocab_size=tiny_step.VOCABULARY, **ids)
    adapt(student, config, seed=0, device=torch.device("cpu"))
    learning = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(learning, lr=0.3)
    for _ in range(3):
        log_p = student.model(input_ids=IDS, use_cache=False).logits[0].log_softmax(dim=-1)
        log_p[:-1, 7].mean().neg().backward()
        optimizer.step()
        optimizer.zero_grad()
    return student, config  # in training: evaluated on a CPU, bitsandbytes packs its matrices anew


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_merged_and_apart_give_the_trainers_logits(kind, tmp_path, monkeypatch):
    four = "quantize" in KINDS[kind]
    if four:
        pytest.importorskip("bitsandbytes")
        monkeypatch.setattr(four_bits, "check_machine", lambda _: None)  # a CPU can do it, slowly
    tiny_step.plain_model(tied=False).save_pretrained(tmp_path / "base")
    with torch.enable_grad():
        student, config = trained(tmp_path / "base", KINDS[kind])
    own = student.model(IDS).logits
    before = AutoModelForCausalLM.from_pretrained(tmp_path / "base", **(FOUR_BITS if four else {})).train()
    assert (before(IDS).logits - own).abs().max() > 0.01, "something was learned"
    state = {plain_name(name): p for name, p in student.model.named_parameters()}
    save_tokenizer(tmp_path / "tokenizer")
    for how in ("merged", "apart"):
        lora = config.lora.model_copy(update={"export": how})
        export_trained(
            student.model,
            config.model_copy(update={"lora": lora}),
            state,
            tmp_path / "tokenizer",
            tmp_path / how,
            title="t",
            recipe="r: 1",
            counts={},
        )
    merged, info = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    torch.testing.assert_close(merged(IDS).logits, own, rtol=1e-5, atol=1e-5)
    apart = PeftModel.from_pretrained(before, tmp_path / "apart").train()
    torch.testing.assert_close(apart(IDS).logits, own, rtol=1e-5, atol=1e-5)
    assert set(load_file(tmp_path / "apart" / "adapter_model.safetensors")) == {
        f"base_model.model.{name}" for name in state if "lora_" in name
    }
    for name, weight in {} if four else apart.merge_and_unload().state_dict().items():  # peft rounds to 4 bits again
        torch.testing.assert_close(merged.state_dict()[name], weight, rtol=1e-5, atol=1e-6)
    name = "DoRA" if config.lora.dora else "LoRA"
    assert f"{name} adapters of rank 4 were trained" in (tmp_path / "merged" / "README.md").read_text()


def test_four_bits_are_refused_where_no_gpu_is_and_where_they_cannot_be():
    config = StudentConfig(pretrained="base", lora={"quantize": "nf4"})
    with pytest.raises(InputError, match=r"student\.lora\.quantize: 4 bits need an NVIDIA or AMD GPU"):
        four_bits.check_machine(torch.device("cpu"))
    with pytest.raises(ValueError, match=r"student\.lora\.quantize: not at train\.zero 3"):
        check_together(config, 3, False)
    check_together(config, 2, False)


def test_merging_is_the_formula_of_dora():
    torch.manual_seed(0)
    w, a, b, m = torch.randn(5, 4), torch.randn(3, 4), torch.randn(5, 3), torch.rand(5) + 1
    state = {"x.weight": w.bfloat16(), "x.lora_A.weight": a, "x.lora_B.weight": b, "x.lora_magnitude_vector": m}
    merged = merge(state, LoraConfig(rank=4, alpha=3.0, dora=True, rslora=True))
    moved = w.bfloat16().double() + 3.0 / 2 * b.double() @ a.double()
    expected = m.double()[:, None] * moved / moved.square().sum(dim=1, keepdim=True).sqrt()
    assert merged.keys() == {"x.weight"}
    torch.testing.assert_close(merged["x.weight"], expected.float())
