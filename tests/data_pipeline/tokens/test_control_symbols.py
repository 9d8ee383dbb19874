"""Control symbols added to a tokenizer that lacks them: as load_tokenizer, and as plain transformers, see them."""

from __future__ import annotations

import json

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.render import load_tokenizer, split_output
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig

TEXT = "what is <think> 漢 </think><|end|>?"


def given(path, specials=("<|end|>",), **config):
    """A byte-level tokenizer with these special tokens; it pads and truncates, as files in the wild do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in specials])
    backend.enable_truncation(512)
    path.mkdir()
    backend.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", "eos_token": "<|end|>", "model_max_length": 512, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"extra_special_tokens": ["<|end|>"]},
        {"additional_special_tokens": ["<|end|>"], "bos_token": None},
        {"added_tokens_decoder": {"256": {"content": "<|end|>", "special": True}}},
        {"pad_token": {"content": "[NONE]"}},
    ],
)
def test_what_is_missing_comes_behind_the_old_ids(tmp_path, config):
    path = given(tmp_path / "given", **config)
    old = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    assert add_control_symbols(path) == 257
    tokenizer = load_tokenizer(path)
    assert tokenizer.special_ids == {"bos": 259, "eos": 256, "pad": 260, "think": 257, "end_think": 258}
    assert tokenizer.size == 261
    vocabulary = tokenizer.backend.get_vocab()
    assert {name: vocabulary[name] for name in old} == old
    kept = Tokenizer.from_file(str(path / "tokenizer.json"))
    assert kept.truncation["max_length"] == 512
    auto = AutoTokenizer.from_pretrained(path)
    assert (auto.bos_token, auto.eos_token, auto.pad_token) == ("<s>", "<|end|>", "<pad>")
    assert auto("<think>so</think>", add_special_tokens=False).input_ids == [257, *tokenizer.encode(["so"])[0].ids, 258]
    assert len(tokenizer.encode([TEXT])[0].ids) == len(TEXT.encode()), "a control symbol in a text stays text"
    auto.save_pretrained(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").special_ids == tokenizer.special_ids
    written = [259, 257, *tokenizer.encode(["so"])[0].ids, 258, *tokenizer.encode(["7"])[0].ids, 256, 260]
    for reader in (auto, AutoTokenizer.from_pretrained(tmp_path / "again")):
        assert reader.decode(written, skip_special_tokens=True) == "<think>so</think>7"


def test_tags_that_an_older_version_made_special_are_read_as_before(tmp_path):
    """They stay special in the file, which is the user's; trace and answer are told by their ids."""
    path = given(tmp_path / "given", ("<|end|>", "<think>", "</think>"), bos_token="<|end|>", pad_token="<|end|>")
    tokenizer = load_tokenizer(path)
    written = [257, *tokenizer.encode(["so"])[0].ids, 258, *tokenizer.encode(["7"])[0].ids, 256]
    assert split_output(tokenizer, written) == ("so", "7", True)
    assert add_control_symbols(path) == 259
    assert AutoTokenizer.from_pretrained(path).decode(written, skip_special_tokens=True) == "so7"


def test_a_complete_tokenizer_stays_as_it_is(tmp_path):
    path = given(
        tmp_path / "given", ("<|end|>", "<think>", "</think>"), bos_token="<|end|>", pad_token={"content": "<|end|>"}
    )
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert add_control_symbols(path) == 259
    assert {file.name: file.read_bytes() for file in path.iterdir()} == before


def test_files_that_cannot_be_read_and_a_tokenizer_that_is_trained_are_refused(tmp_path):
    path = given(tmp_path / "given")
    (path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object"):
        add_control_symbols(path)
    with pytest.raises(InputError, match=r"nowhere/tokenizer\.json: no such file"):
        add_control_symbols(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"add_symbols belongs to encode\.tokenizer\.path"):
        TokenizerConfig(vocab_size=400, add_symbols=True)
