"""Whole trainings on two ranks: adapters exported merged and apart, and a vocabulary that grew; then evaluated."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import tiny_step
import torch
from distributed_support import run_workers
from fake_run import RECIPE, mini_recipe, run_data_stages
from peft import PeftModel
from safetensors.torch import load_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.trainer.evaluation import evaluate
from tracestill.trainer.losses.losses import load_student
from tracestill.trainer.recipe.run_directory import RunDirectory
from tracestill.trainer.recipe.student_settings import LoraConfig
from tracestill.trainer.student.adapters import merge
from tracestill.trainer.writing.generate import load_exported

WORKER = Path(__file__).with_name("adapt_train_worker.py")
IDS = torch.arange(20)[None]
CPU = torch.device("cpu")
EXACT: dict[str, float] = {"rtol": 1e-5, "atol": 1e-5}  # fp32, another order of the same sums


def base(path: Path, rows: int, *, tied: bool) -> None:
    """A pretrained model of so many embeddings, in ``path``."""
    torch.manual_seed(4)
    shape = {key: value for key, value in tiny_step.SHAPE.items() if key != "model_type"}
    config = LlamaConfig(**shape, vocab_size=rows, tie_word_embeddings=tied, max_position_embeddings=512)
    LlamaForCausalLM(config).save_pretrained(path)


def tokenizer(path: Path) -> None:
    """A byte-level tokenizer that knows an end of text, and nothing of traces."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    path.mkdir()
    backend.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|end|>"}
    (path / "tokenizer_config.json").write_text(json.dumps(config))


def claim(root: Path, name: str, **changes: Any) -> RunDirectory:
    train = {"steps": 3, "ranks": 2, "lr": 1e-2}
    student = {"pretrained": str(root / f"{name}-base"), **changes.pop("student", {})}
    more = {"train": {**train, **changes.pop("train", {})}, "evaluate": {"max_new_tokens": 4}, "arms": {}, **changes}
    run = RunDirectory.create(root / name, mini_recipe(student=student, **more))
    run_data_stages(run)
    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("exports")
    apart = {"student": {"lora": {"export": "apart", "targets": ["q_proj", "up_proj"]}}, "train": {"zero": 1}}
    run = claim(
        root,
        "lora",
        student={"lora": {"rank": 4, "alpha": 12.0}},
        train={"zero": 3, "checkpoint_every": 2},
        deepspeed={"zero_optimization": {"stage3_param_persistence_threshold": 0, "stage3_prefetch_bucket_size": 2000}},
        arms={"apart": apart},
    )
    base(root / "lora-base", read_manifest(run.stage("traces", "tokenizer"))["vocab_size"], tied=False)
    tokenizer(root / "tokenizer")
    grown = {"tokenizer": {"path": str(root / "tokenizer"), "add_symbols": True}}
    long = {**RECIPE["plan"], "capacity": 512}  # type: ignore[dict-item]
    claim(root, "grown", encode=grown, plan=long)
    claim(root, "refused", encode=grown, plan=long, student={"lora": {}})
    base(root / "grown-base", 264, tied=True)  # 257 tokens, padded to a multiple of 8
    base(root / "refused-base", 257, tied=False)
    run_workers(WORKER, root, ranks=2)
    return root


def export(root: Path, run: str, arm: str = "traces") -> Path:
    return RunDirectory.open(root / run).stage(arm, "train") / "export"


def own_logits(root: Path, run: str, arm: str = "traces") -> torch.Tensor:
    return load_file(root / f"{run}-{arm}.safetensors")["logits"]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model.eval()(IDS).logits[0]


def test_merged_adapters_are_a_plain_model_with_the_trainers_logits(trained):
    path = export(trained, "lora")
    plain, loading = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True)
    assert not loading["missing_keys"]
    assert not loading["unexpected_keys"]
    assert not any("lora" in name for name, _ in plain.named_parameters())
    assert "adapter_config.json" not in {file.name for file in path.iterdir()}
    torch.testing.assert_close(logits(plain), own_logits(trained, "lora"), **EXACT)
    before = AutoModelForCausalLM.from_pretrained(trained / "lora-base")
    assert (logits(before) - logits(plain)).abs().max() > 0.01, "something was learned"
    changed = {n for n, p in plain.named_parameters() if not torch.equal(p, before.get_parameter(n))}
    assert changed == {name for name, _ in plain.named_parameters() if "_proj" in name}
    assert "LoRA adapters of rank 4 were trained and are merged" in (path / "README.md").read_text()


def test_adapters_apart_are_pefts_and_give_the_same_logits(trained):
    path = export(trained, "lora", "apart")
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "README.md"} <= {
        file.name for file in path.iterdir()
    }
    assert not (path / "model.safetensors").exists()
    plain = AutoModelForCausalLM.from_pretrained(trained / "lora-base")
    adapted = PeftModel.from_pretrained(plain, path)
    own = own_logits(trained, "lora", "apart")
    torch.testing.assert_close(logits(adapted), own, **EXACT)
    torch.testing.assert_close(logits(AutoModelForCausalLM.from_pretrained(path)), own, **EXACT)
    config = json.loads((path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(trained / "lora-base")
    assert (config["r"], config["lora_alpha"], config["task_type"]) == (4, 12, "CAUSAL_LM")
    stored = load_file(path / "adapter_model.safetensors")
    ends = {f"{part}.lora_{which}" for part in ("q_proj", "up_proj") for which in "AB"}
    assert {".".join(name.split(".")[-3:-1]) for name in stored} == ends
    assert "LoRA adapters of rank 4 alone" in (path / "README.md").read_text()


@pytest.mark.parametrize(("run", "arm"), [("lora", "traces"), ("lora", "apart"), ("grown", "traces")])
def test_every_export_is_evaluated(trained, run, arm):
    held = RunDirectory.open(trained / run)
    evaluate.run(held, arm)
    result = json.loads((held.stage(arm, "evaluate") / "result.json").read_text())
    assert result["questions"] == 4
    recipe = held.recipe.for_arm(arm)
    own = own_logits(trained, run, arm)
    torch.testing.assert_close(logits(load_exported(export(trained, run, arm), CPU)), own, **EXACT)
    torch.testing.assert_close(logits(load_student(export(trained, run, arm), recipe, CPU).model), own, **EXACT)


def test_an_adapter_without_its_base_is_refused_in_one_line(trained, tmp_path):
    for file in export(trained, "lora", "apart").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/nowhere/at/all"}))
    with pytest.raises(InputError, match="the exported student does not load") as caught:
        load_exported(tmp_path, CPU)
    assert "\n" not in str(caught.value)


def test_a_grown_student_is_exported_with_its_tokenizer(trained):
    path = export(trained, "grown")
    model, text = AutoModelForCausalLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    torch.testing.assert_close(logits(model), own_logits(trained, "grown"), **EXACT)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert read_manifest(RunDirectory.open(trained / "grown").stage("traces", "tokenizer"))["known_tokens"] == 257
    ids = text.convert_tokens_to_ids(["<think>", "</think>", "<s>", "<pad>", "<|end|>"])
    assert ids == [257, 258, 259, 260, 256]
    assert len(model.get_input_embeddings().weight) == 264
    old = AutoModelForCausalLM.from_pretrained(trained / "grown-base").get_input_embeddings().weight
    new = model.get_input_embeddings().weight
    assert not torch.equal(new[257], new[258]), "each new symbol learns a row of its own"
    assert not torch.equal(new[257:261], old[257:261])


@pytest.mark.parametrize("arm", ["traces", "apart"])  # ZeRO 3 and 1
def test_a_checkpoint_holds_what_is_trained_and_goes_on_from_its_base(trained, arm):
    train = RunDirectory.open(trained / "lora").stage(arm, "train")
    newest = max((train / "checkpoints").iterdir())
    names = {name for file in newest.glob("*.safetensors") for name in load_file(file)}
    parameters = {name for name in names if not name.startswith("rng/")}
    assert parameters, "adapters"
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in parameters)
    state = json.loads((newest / "state.json").read_text())
    files = state["identity"]["config"]["contents"]["student.pretrained"]
    weights = trained / "lora-base" / "model.safetensors"
    assert files["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    kept = {name: files[name] for name in ("config.json", "model.safetensors")}
    assert state["base"] == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
    first, again = (
        next(path.glob("*model.safetensors")) for path in (train.with_name("train-first"), train / "export")
    )
    assert first.read_bytes() == again.read_bytes(), "killed and resumed, it is bit for bit the undisturbed training"


def test_merging_is_the_formula():
    torch.manual_seed(0)
    w, a, b = torch.randn(5, 4), torch.randn(3, 4), torch.randn(5, 3)
    state = {"x.weight": w, "x.lora_A.weight": a, "x.lora_B.weight": b, "y.weight": w.bfloat16()}
    merged = merge(state, LoraConfig(rank=3, alpha=7.5))
    assert merged.keys() == {"x.weight", "y.weight"}
    torch.testing.assert_close(merged["x.weight"], (w.double() + 2.5 * b.double() @ a.double()).float())
    assert torch.equal(merged["y.weight"], w.bfloat16())
    half = merge({**state, "x.weight": w.bfloat16()}, LoraConfig(rank=3, alpha=7.5))
    assert half["x.weight"].dtype == torch.float32


def test_new_symbols_that_would_not_be_learned_are_refused(trained):
    said = json.loads((trained / "refused.json").read_text())
    assert "the 4 new control symbols begin with equal rows in the embeddings and head" in said
    assert "student.lora.train: [embeddings, head]" in said
