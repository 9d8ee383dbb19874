"""Exported directories as plain transformers sees them, in a process that cannot import this project."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import chat_templates as made
import pytest
import torch
from safetensors.torch import load_file
from tiny_export import WORDS, save_tokenizer, tiny_model
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerFast, pipeline

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.chat_template import ChatTemplate
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.data_pipeline.tokens.render import load_tokenizer
from tracestill.data_pipeline.tokens.tokenizer import fast_tokenizer, train_sentencepiece, write_tokenizer
from tracestill.trainer.export.export import check_tokenizer, copy_tokenizer, export
from tracestill.trainer.writing.generate import load_exported

BLOCK = """
import sys, json
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tracestill":
            raise ImportError("tracestill is not to be imported")
sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
results = {}
for directory in sys.argv[1:]:
    model, loading = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    ids = torch.arange(5, 21)[None]
    results[directory] = {
        "missing": sorted(loading["missing_keys"]), "unexpected": sorted(loading["unexpected_keys"]),
        "logits": model(ids).logits[0].tolist(),
        "text": tokenizer.decode(model.generate(ids[:, :3], max_new_tokens=40)[0, 3:]),
        "ids": [model.generation_config.bos_token_id, model.generation_config.eos_token_id,
                model.generation_config.pad_token_id, model.config.eos_token_id],
        "tied": model.lm_head.weight is model.get_input_embeddings().weight,
        "dtype": str(model.dtype),
        "words": tokenizer.tokenize("<s> 1 + 2 <think> so </think> </s>"),
    }
print(json.dumps(results))
"""


CHAT = LayoutConfig(template="chat")
REAL_RENDER = ChatTemplate.render


class OurHead(nn.Linear):
    """Stands for the head's subclass that the trainer puts in."""


def trained(**changes):
    model = tiny_model(**changes)
    model.lm_head.__class__ = OurHead
    model.config.use_cache = False
    model.config._attn_implementation = "tracestill"
    return model


def write(model, out: Path, **options) -> Path:
    save_tokenizer(out.parent / "tokenizer")
    (out.parent / "tokenizer" / "manifest.json").write_text("{}")
    counts = {"select": {"in": 1234, "rejected": {"wrong answer": 7}}}
    export(model, out.parent / "tokenizer", out, title="demo", recipe="name: demo\n", counts=counts, **options)
    return out


def by_hand(model) -> torch.Tensor:
    model.config._attn_implementation = "sdpa"
    with torch.inference_mode():
        return model(torch.arange(5, 21)[None]).logits[0]


def test_plain_transformers_loads_what_was_trained(tmp_path: Path) -> None:
    plain, tied, half = trained(), trained(tie_word_embeddings=True, seed=1), trained(seed=2)
    half.to(torch.bfloat16)
    half.model.rotary_emb = tiny_model().model.rotary_emb  # the cast rounds the frequencies; DeepSpeed's does not
    # what gathering the shards of a tied student gives: a copy for each name, in another type
    gathered = {name: tensor.float().clone() for name, tensor in tied.state_dict().items()}
    outs = [
        write(plain, tmp_path / "plain", max_shard_size="20KB"),
        write(tied, tmp_path / "tied"),
        write(tied, tmp_path / "gathered", state_dict=gathered),
        write(half, tmp_path / "half", state_dict={k: v.float() for k, v in half.state_dict().items()}),
    ]
    example = re.search("```python\n(.*?)```", (outs[0] / "README.md").read_text(), re.DOTALL)
    assert example
    script = BLOCK + example[1].replace('"."', repr(str(outs[0]))).replace("max_new_tokens=256", "max_new_tokens=20")
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, outs)],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures, written_by_the_example = done.stdout.split("\n", 1)
    assert written_by_the_example.startswith("<s>")
    results = json.loads(figures)
    for out, model in zip(outs, (plain, tied, tied, half), strict=True):
        found = results[str(out)]
        assert (found["missing"], found["unexpected"]) == ([], [])
        assert found["ids"] == [1, 2, 0, 2]
        assert found["tied"] == model.config.tie_word_embeddings
        assert found["words"] == ["<s>", "1", "+", "2", "<think>", "so", "</think>", "</s>"]
        assert found["dtype"] == str(model.dtype)
        torch.testing.assert_close(torch.tensor(found["logits"]), by_hand(model).float(), rtol=1e-6, atol=1e-6)
        assert found["text"]
        assert set(found["text"].split()) <= set(WORDS)
    assert len(list((tmp_path / "plain").glob("*.safetensors"))) > 1
    tied_state, gathered_state, half_state = (load_file(out / "model.safetensors") for out in outs[1:])
    assert "lm_head.weight" not in tied_state
    assert gathered_state.keys() == tied_state.keys()
    assert {tensor.dtype for tensor in half_state.values()} == {torch.bfloat16}


def test_directory_holds_nothing_of_ours(tmp_path: Path) -> None:
    out = write(trained(), tmp_path / "export")
    config = json.loads((out / "config.json").read_text())
    assert config["use_cache"] is True
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "tracestill" not in json.dumps(config)
    generation = json.loads((out / "generation_config.json").read_text())
    assert [generation[f"{name}_token_id"] for name in ("bos", "eos", "pad")] == [1, 2, 0]
    assert not (out / "manifest.json").exists()
    card = (out / "README.md").read_text()
    assert "name: demo" in card
    assert "| select: in | 1,234 |" in card
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1
    assert "| select: rejected: wrong answer | 7 |" in card
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize(("tied", "parameters"), [(False, 20_640), (True, 19_616)])
def test_the_card_counts_the_parameters_of_a_partitioned_student(tmp_path: Path, tied: bool, parameters: int) -> None:
    """At ZeRO 3 the model holds none of them itself. By hand: 2 layers of 2 x 32 x 32 + 2 x 32 x 16 + 3 x 32 x 64 and
    two norms of 32, a last norm, 32 embeddings of 32, and as many of a head that is not tied."""
    assert parameters == 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64 + 2 * 32) + 32 + 32 * 32 * (1 if tied else 2)
    model = trained(tie_word_embeddings=tied)
    said = f"A student of {parameters:,} parameters (LlamaForCausalLM)"
    assert said in (write(model, tmp_path / "whole") / "README.md").read_text()
    gathered = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for parameter in model.parameters():
        parameter.data = torch.empty(0)
    out = write(model, tmp_path / "partitioned", state_dict=gathered)
    assert said in (out / "README.md").read_text()
    assert sum(tensor.numel() for tensor in load_file(out / "model.safetensors").values()) == parameters


def test_export_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = trained()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    write(model, tmp_path / "export")
    assert model.config.use_cache is False
    assert model.config._attn_implementation == "tracestill"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_failure_leaves_the_export_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = write(trained(), tmp_path / "export")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    (tmp_path / ".export.00000000.partial").mkdir()  # of a run that was killed
    monkeypatch.setattr("tracestill.trainer.export.export.copy_tokenizer", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write(trained(seed=9), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export", "tokenizer"]
    monkeypatch.undo()
    write(trained(seed=9), out)
    assert (out / "model.safetensors").read_bytes() != before["model.safetensors"]


def test_buffers_come_from_the_model(tmp_path: Path) -> None:
    model = trained()
    model.model.norm.register_buffer("seen", torch.tensor([7.0]))
    out = write(model, tmp_path / "export", state_dict=dict(model.named_parameters()))
    assert load_file(out / "model.safetensors")["model.norm.seen"] == 7


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("model.norm.weight"), r"lacks tensors: model.norm.weight"),
        (lambda s: s.update(extra=torch.ones(1)), r"has unknown tensors: extra"),
        (lambda s: s.update({"lm_head.weight": torch.empty(0)}), r"has empty \(partitioned\?\) tensors: lm_head"),
    ],
)
def test_a_state_that_is_not_whole_is_refused(tmp_path: Path, change, message: str) -> None:
    model = trained()
    state = dict(model.state_dict())
    change(state)
    with pytest.raises(ValueError, match=message):
        write(model, tmp_path / "export", state_dict=state)
    assert not (tmp_path / "export").exists()


def test_the_chat_template_is_that_of_the_form(tmp_path: Path) -> None:
    """A tokenizer's own template is no use to a student of the plain layout; of two tasks, it asks for the answer."""
    given = made.save(tmp_path / "given", made.CHATML)
    add_control_symbols(given)
    model = trained(vocab_size=440)
    prefix = '🏷 "label" }} '  # beyond the basic plane, and what means something in Jinja
    asked = {
        "plain": {},
        "two": {"two_task": {"answer_prefix": prefix}},
        "chat": {"template": "chat", "system": "Be brief."},
    }
    for name, keys in asked.items():
        config, out = LayoutConfig.model_validate(keys), tmp_path / name
        check_tokenizer(given, model.config, config)
        export(model, given, out, title="", recipe="", counts={}, encode=config)
        layout, auto = load_layout(config, out), AutoTokenizer.from_pretrained(out)
        messages, _ = layout.asking("How much?")
        ids = auto.apply_chat_template(messages, add_generation_prompt=True).input_ids
        assert ids == layout.prompt_ids("How much?")
        assert (
            auto.decode(ids)
            == {
                "plain": "<|end|>How much?",
                "two": f"<|end|>{prefix}How much?",
                "chat": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHow much?<|im_end|>\n"
                "<|im_start|>assistant\n",
            }[name]
        )
        assert (out / "chat_template.jinja").exists() == (name == "chat")


def test_an_export_names_no_code_that_it_lacks(tmp_path: Path) -> None:
    given = made.save(tmp_path / "given", made.CHATML, auto_map={"AutoTokenizer": ["own.Slow", "own.Fast"]})
    export(trained(vocab_size=440), given, tmp_path / "out", title="", recipe="", counts={}, encode=CHAT)
    assert "auto_map" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_unfit_tokenizers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"22 tokens, but the student embeds only 16; train again"):
        write(trained(vocab_size=16), tmp_path / "export")
    with pytest.raises(InputError, match=r"tokenizer.json: no such file"):
        export(trained(), tmp_path / "nothing", tmp_path / "export", title="", recipe="", counts={})


def test_torn_weights_are_one_line(tmp_path: Path) -> None:
    out = write(trained(), tmp_path / "export")
    weights = out / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"the exported student does not load .* train again") as caught:
        load_exported(out, torch.device("cpu"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("model_type", "fits"), [("llama", True), ("qwen3", True), ("mistral", True), ("qwen2", False)]
)
def test_a_model_type_whose_tokenizer_transformers_replaces_is_refused(tmp_path, model_type, fits):
    """AutoTokenizer takes a class of its own for qwen2, and would read our vocabulary as something else."""
    fast = fast_tokenizer(train_sentencepiece(["What is (7 + 14) mod 10? So 3 * 2 = 6."] * 20, 320))
    PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    config = AutoConfig.for_model(model_type)
    if fits:
        check_tokenizer(tmp_path, config)
    else:
        with pytest.raises(InputError, match=r"otherwise than training would \(after .*\); choose another model_type"):
            check_tokenizer(tmp_path, config)


def test_a_pipeline_tells_trace_from_answer(tmp_path: Path) -> None:
    """Plain transformers' pipeline leaves special tokens out; the tags are none, so trace and answer stay apart."""
    (tmp_path / "tokenizer").mkdir()
    write_tokenizer(train_sentencepiece(["Digits 7, 1, 1. 3 + 4 = 7? "] * 20, 320), tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    question, trace, answer = (e.ids for e in tokenizer.encode(["3 + 4?", "Digits 7, 1, 1.", "5.5"]))
    ids = [tokenizer.bos, *question, tokenizer.think, *trace, tokenizer.end_think, *answer, tokenizer.eos]
    model = tiny_model(vocab_size=tokenizer.size, initializer_range=0.1).train()
    optimizer, rows = torch.optim.Adam(model.parameters(), 1e-2), torch.tensor([ids])
    for _ in range(60):  # learns the one document by heart
        optimizer.zero_grad()
        model(rows, labels=rows).loss.backward()
        optimizer.step()
    export(model.eval(), tmp_path / "tokenizer", tmp_path / "export", title="", recipe="", counts={})
    written = pipeline("text-generation", model=str(tmp_path / "export"), device="cpu")(
        [{"role": "user", "content": "3 + 4?"}], max_new_tokens=40
    )
    assert written[0]["generated_text"][-1]["content"] == "<think>Digits 7, 1, 1.</think>5.5"
    layout = load_layout(LayoutConfig(), tmp_path / "export")
    reading = layout.read(ids[len(question) + 1 :])
    assert (reading.trace, reading.answer) == ("Digits 7, 1, 1.", "5.5")


CL100K = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
YEARS = "In 2023 and 2023, the sum of 202 is 2023. "  # learns 202, but no number of two digits that a probe would hold
SEVEN = "It is 704, then 704 again. "  # a number that the fixed texts do not hold, nor a part of it
COMBINED = "cafe\u0301 cafe\u0301 cafe\u0301 "
WIDE = "です。 です。 "
FACES = "3\ufe0f\u20e3 3\ufe0f\u20e3 "  # the digit as a key


def byte_level(directory: Path, text: str, split: str = CL100K) -> Path:
    """A byte-level tokenizer that cuts as ``split`` says and has learnt the merges of a text."""
    backend = Tokenizer(models.BPE())
    if text != COMBINED:
        backend.normalizer = normalizers.NFC()  # as qwen2's class
    cut = pre_tokenizers.Split(Regex(split), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, show_progress=False, initial_alphabet=alphabet)
    backend.train_from_iterator([text] * 4, trainer)
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    names = {f"{name}_token": "<|end|>" for name in ("bos", "eos", "pad")}
    (directory / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "TokenizersBackend", **names}))
    add_control_symbols(directory)
    return directory


@pytest.mark.parametrize(
    ("text", "split"),
    [
        (YEARS, CL100K),
        (SEVEN, CL100K),  # only its own numbers show it
        (COMBINED, r"\S+|\s+"),  # qwen2's class composes what is combined
        (WIDE, r"\S+|\s+"),  # qwen2's class parts letters from the stop behind them
        (FACES, r"\S+|\s+"),  # ... and a digit from what makes it a key
    ],
    ids=["groups of digits", "numbers of the vocabulary", "combining accents", "CJK", "emoji"],
)
def test_every_way_of_cutting_text_otherwise_is_found(tmp_path, text, split):
    given = byte_level(tmp_path / "given", text, split)
    check_tokenizer(given, AutoConfig.for_model("llama"))  # read as its file says
    with pytest.raises(InputError, match=r"as Qwen2Tokenizer and cuts text otherwise .*\(after '.*': '.*', not '.*'\)"):
        check_tokenizer(given, AutoConfig.for_model("qwen2"))


def test_an_export_holds_nothing_that_is_the_run_s_own(tmp_path):
    source, target = tmp_path / "tokenizer", tmp_path / "export"
    save_tokenizer(source)
    target.mkdir()
    for name in (".known.json", ".known.json.0a.tmp", "manifest.json"):
        (source / name).write_text("{}")
    copy_tokenizer(source, target, SimpleNamespace(chat_template=None))
    left = {".known.json", ".known.json.0a.tmp", "manifest.json"}
    assert {path.name for path in target.iterdir()} == {path.name for path in source.iterdir()} - left
    assert (target / "tokenizer.json").is_file()
