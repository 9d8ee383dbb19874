"""Model directories of strangers: nothing is fetched, and what would not load is named before any rank starts."""

from __future__ import annotations

import ast
import contextlib
import json
import socket
import struct
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled
from safetensors.torch import load_file, save_file
from strange_models import CPU, IDS, load, save_adapter, save_model, set_config
from tiny_export import save_tokenizer, tiny_model
from transformers import AutoModelForCausalLM
from transformers.integrations import hub_kernels

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.models.model_directory import check_directory
from tracestill.trainer.loading.loading import check_model, load_tokenizer, offline, read_config
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.recipe.student_settings import StudentConfig
from tracestill.trainer.student.check import check_student
from tracestill.trainer.student.student import build_student
from tracestill.trainer.writing.generate import generate, load_exported

ROOT = Path(__file__).parents[3]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save_model(tmp_path / "model")


# ---- one door

LOADERS = {"from_pretrained", "from_config", "snapshot_download", "hf_hub_download", "load_dataset", "load_adapter"}


def calls(path: Path) -> list[ast.Call]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    names = [getattr(call.func, "attr", getattr(call.func, "id", "")) for call in found]
    return [call for call, name in zip(found, names, strict=True) if name in LOADERS]


def test_models_come_in_by_one_door() -> None:
    folders = ("data_pipeline", "kernels", "trainer", "launch")
    found = {path.name: calls(path) for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))}
    assert {name for name, loads in found.items() if loads} == {"loading.py", "gguf.py", "hub.py", "load.py"}
    for call in found["loading.py"] + found["gguf.py"] + found["load.py"]:  # the last: a local teacher's
        # of settings, not of a model; of an adapter in a directory that was looked at
        if ast.unparse(call.func) in ("AutoHfQuantizer.from_config", "peft.PeftModel.from_pretrained"):
            continue
        told = {keyword.arg for keyword in call.keywords}
        own = {"trust_remote_code"} if call.func.attr == "from_config" else {"trust_remote_code", "local_files_only"}
        assert own <= told, ast.unparse(call)


# ---- torn, empty, pickled, missing


def cut(path: Path, size: int) -> None:
    path.write_bytes(path.read_bytes()[:size])


def header(path: Path, change) -> None:
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    held = json.loads(data[8 : 8 + size])
    change(held)
    text = json.dumps(held).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


def reach_out(held: dict) -> None:
    name = next(name for name in held if name != "__metadata__")
    held[name]["data_offsets"] = [0, 1 << 40]


def pickle_them(directory: Path) -> None:
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()


def shard(directory: Path) -> Path:
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[:5], "model-2.safetensors": names[5:]}
    for name, held in parts.items():
        save_file({key: tensors[key] for key in held}, directory / name, metadata={"format": "pt"})
    (directory / "model.safetensors").unlink()
    placed = {key: name for name, held in parts.items() for key in held}
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return index


def lacking(directory: Path) -> None:
    index = json.loads(shard(directory).read_text())
    index["weight_map"]["model.extra.weight"] = "model-2.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


def leading_out(directory: Path) -> None:
    index = json.loads(shard(directory).read_text())
    index["weight_map"]["lm_head.weight"] = "../model-2.safetensors"
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))


SAFE = "model.safetensors"
DAMAGE = {
    "empty": (lambda d: (d / SAFE).write_bytes(b""), "model.safetensors: is empty"),
    "torn in the header": (lambda d: cut(d / SAFE, 100), "model.safetensors: is torn"),
    "torn at the end": (lambda d: cut(d / SAFE, (d / SAFE).stat().st_size - 1), "model.safetensors: is torn"),
    "text": (lambda d: (d / SAFE).write_text("<!DOCTYPE html><html>not found</html>"), "model.safetensors: is torn"),
    "offsets": (lambda d: header(d / SAFE, reach_out), "model.safetensors: is torn"),
    "no tensors": (lambda d: save_file({}, d / SAFE), "model.safetensors: holds no tensor"),
    "LFS": (lambda d: (d / SAFE).write_text("version https://git-lfs.github.com/spec/v1\n"), "pointer of Git LFS"),
    "pickle": (pickle_them, "pytorch_model.bin: is a pickle.*not read.*save_pretrained"),
    "gone": (lambda d: (d / SAFE).unlink(), "holds no model.safetensors; expected"),
    "gguf": (lambda d: (d / SAFE).rename(d / "model-q4.gguf"), r"holds no model.safetensors \(found model-q4.gguf\)"),
    "shard gone": (lambda d: (shard(d), (d / "model-2.safetensors").unlink()), "holds no model-2.safetensors"),
    "shard torn": (lambda d: (shard(d), cut(d / "model-1.safetensors", 500)), "model-1.safetensors: is torn"),
    "shard lacks": (lacking, "model-2.safetensors: lacks model.extra.weight, which model.safetensors.index.json"),
    "shard elsewhere": (leading_out, r"names '../model-2.safetensors'; expected a file beside it"),
    "index": (lambda d: shard(d).write_text("{"), "index.json: not readable as JSON"),
    "config": (lambda d: (d / "config.json").write_text("[]"), "config.json: expected a JSON object"),
    "other weights": (lambda d: set_config(d, transformers_weights="../x.safetensors"), "transformers_weights is"),
    "gptq": (
        lambda d: set_config(d, quantization_config={"quant_method": "gptq", "bits": 4}),
        r"config.json: its weights are quantised \(gptq\).*requires",
    ),
    "kernel": (lambda d: set_config(d, attn_implementation="some/kernel"), "'some/kernel', a kernel from a hub"),
    "inner kernel": (
        lambda d: set_config(d, text_config={"_attn_implementation": {"": "some/kernel"}}),
        "'some/kernel', a kernel from a hub",
    ),
    "other settings": (lambda d: set_config(d, configuration_files=["config.5.0.0.json"]), "configuration_files"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_would_not_load_is_told_before_ranks_start(directory: Path, name: str) -> None:
    damage, said = DAMAGE[name]
    damage(directory)
    student = StudentConfig(pretrained=directory)
    with pytest.raises(InputError, match=said) as caught:
        check_student(student, CPU, torch.float32)
    assert str(caught.value).startswith("student.pretrained: ")
    assert "\n" not in str(caught.value)
    # a rank that meets it later, or evaluation, ends with the same exit code, which is not tried again
    with pytest.raises(InputError, match=said):
        build_student(student, device=CPU, dtype=torch.float32, **IDS)
    with pytest.raises(InputError, match="does not load"):
        load_exported(directory, CPU)


def test_whole_directories_pass(directory: Path) -> None:
    check_model(directory)
    shard(directory)
    check_model(directory)
    assert load(directory).num_parameters() == tiny_model().num_parameters()
    (directory / "pytorch_model.bin").write_bytes(b"never looked at")
    check_model(directory)


@pytest.mark.parametrize("change", ["shapes", "values"])
def test_what_only_loading_shows_is_bad_input_too(directory: Path, change: str) -> None:
    if change == "shapes":
        set_config(directory, intermediate_size=48)
    else:
        set_config(directory, num_attention_heads="four")
    with pytest.raises(InputError) as caught:
        load(directory)
    assert "\n" not in str(caught.value)


# ---- adapters


@pytest.fixture
def network(monkeypatch) -> list[object]:
    """Every attempt to reach another machine; none succeeds."""
    tried: list[object] = []

    def refuse(*where, **more):
        tried.append(where)
        raise NotImplementedError("no network in this test")  # which nobody tries again

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("HF_TOKEN", "canary-99")
    return tried


def test_nothing_is_fetched_whatever_a_directory_names(directory: Path, tmp_path: Path, network) -> None:
    hub = save_adapter(tmp_path / "hub", "someone/a-model")
    for way in (lambda: load_exported(hub, CPU), lambda: load(hub), lambda: check_model(hub)):
        with pytest.raises(InputError, match=r"base_model_name_or_path is 'someone/a-model'; expected the directory"):
            way()
    recipe = Recipe.model_construct(student=StudentConfig(pretrained=directory))
    assert recipe.student.trust_remote_code is None
    local = save_adapter(tmp_path / "local", str(directory))
    model = load(local)
    assert "lora" in str(sorted(dict(model.named_parameters())))
    save_tokenizer(directory)
    set_config(directory, model_type="mistral", transformers_version="4.50.0")  # of these, a hub is asked for tags
    load_tokenizer(directory)
    read_config(directory)
    written = generate(load(directory), [[1, 5]], stops=[2], pad_id=0, max_new_tokens=3, batch_size=1)
    assert len(written[0]) <= 3
    with offline(), pytest.raises(OfflineModeIsEnabled):  # as a model's own constructor might try
        HfApi().model_info("someone/a-model")
    assert not hub_kernels._kernels_enabled
    assert hub_kernels.lazy_load_kernel("causal-conv1d", {}) is None
    assert network == []
    with contextlib.suppress(Exception):  # what plain transformers does
        AutoModelForCausalLM.from_pretrained(hub)
    assert network


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda path: (path / "adapter_model.safetensors").write_bytes(b""), "adapter_model.safetensors: is empty"),
        (lambda path: cut(path / "adapter_model.safetensors", 300), "adapter_model.safetensors: is torn"),
        (
            lambda path: (path / "adapter_model.safetensors").rename(path / "adapter_model.bin"),
            "adapter_model.bin: is a pickle",
        ),
        (lambda path: (path / "adapter_config.json").write_text("{}"), r"base_model_name_or_path is None"),
    ],
)
def test_an_adapter_s_files_are_looked_at_too(directory: Path, tmp_path: Path, damage, said: str) -> None:
    path = save_adapter(tmp_path / "adapter", str(directory))
    check_model(path)
    damage(path)
    with pytest.raises(InputError, match=said):
        load_exported(path, CPU)


@pytest.mark.parametrize(
    ("key", "held", "said"),
    [
        ("target_modules", "([a-z._0-9]+)*!", "repeats a group"),
        ("target_modules", ["q_proj", "(a|a)+b"], "repeats a group"),
        ("exclude_modules", ".*" * 4 + "!", "has more than 3 repetitions"),
        ("rank_pattern", {"(x+x+){9,}y": 4}, "repeats a group"),
        ("layers_pattern", "(", "is no regular expression"),
        ("target_modules", r".*\.layers\.\d+\..*\.(q_proj|v_proj)$", ""),
        ("target_modules", "^(?!.*visual).*(?:q_proj|k_proj).*$", ""),
        ("target_modules", "all-linear", ""),
        ("rank_pattern", {"^model.decoder.layers.0.encoder_attn.k_proj": 16}, ""),
    ],
)
def test_an_adapter_s_patterns_end(directory: Path, tmp_path: Path, key: str, held: object, said: str) -> None:
    """peft matches them against every name in the model."""
    path = save_adapter(tmp_path / "adapter", str(directory))
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps({**config, key: held}))
    if not said:
        check_directory(path)
        return
    with pytest.raises(InputError, match=f"adapter_config.json: {key} holds the pattern .*{said}"):
        check_directory(path)


def test_an_adapter_s_model_is_looked_at_too(directory: Path, tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "adapter", str(directory))
    cut(directory / SAFE, 1000)
    with pytest.raises(InputError, match=r"model/model\.safetensors: is torn"):
        check_model(path)
