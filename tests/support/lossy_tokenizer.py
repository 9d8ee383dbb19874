"""A tokenizer like T5's, which lacks characters, and the ways in which others lose text."""

from __future__ import annotations

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# as T5's, without { } \ ~ and newline
KNOWN = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+=?.,[]/▁"


def made(path, model=None, normalizer=None, pre=None, decoder=None, unknown="<unk>"):
    """A tokenizer like T5's: single characters, the unknown token for others, runs of it fused."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((character, -2.0) for character in KNOWN)]
    backend = Tokenizer(model or models.Unigram(pieces, unk_id=2, byte_fallback=False))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre or pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    backend.decoder = decoder or decoders.Metaspace("▁", prepend_scheme="always")
    names = ["<pad>", "</s>", unknown, "<s>", "<think>", "</think>"]
    backend.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in names[:4]])
    backend.add_tokens([AddedToken(name, normalized=False) for name in names[4:]])
    path.mkdir(parents=True)
    backend.save(str(path / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": unknown}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path
