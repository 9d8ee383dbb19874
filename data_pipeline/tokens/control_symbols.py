"""Control symbols that a tokenizer lacks, added to its files: new ids behind the ones it has.

The think tags are added as ordinary tokens, the others as special ones (see ``tokenizer``).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.render import END_THINK, THINK, load_backend, load_config

NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}  # what each is called if there is none


def count_tokens(backend: Tokenizer) -> int:
    """Ids are below it."""
    return max(backend.get_vocab(with_added_tokens=True).values()) + 1


def add_control_symbols(directory: Path, *, tags: bool = True) -> int:
    """Change tokenizer.json and tokenizer_config.json in ``directory`` so that no control symbol is missing; what is
    there stays. Without ``tags`` it may lack those of a think block. Returns the number of tokens before.

    Raises InputError if a file cannot be read, or if the tokenizer cannot take new ids behind its old ones.
    """
    path, config_path = directory / "tokenizer.json", directory / "tokenizer_config.json"
    load_backend(path)  # for its errors; it forgets padding and truncation, which stay in the file
    backend, config = Tokenizer.from_file(str(path)), load_config(config_path)
    known, vocabulary = count_tokens(backend), backend.get_vocab(with_added_tokens=True)
    wanted = [symbol for symbol in (THINK, END_THINK) if tags and symbol not in vocabulary]
    for key, symbol in NAMED.items():
        if content(config.get(key)) not in vocabulary:
            config[key] = symbol
            wanted.append(symbol)
    if not wanted:
        return known
    added = [symbol for symbol in wanted if symbol not in vocabulary]
    backend.add_tokens([AddedToken(symbol, normalized=False) for symbol in wanted if symbol in (THINK, END_THINK)])
    backend.add_special_tokens(
        [AddedToken(symbol, normalized=False, special=True) for symbol in wanted if symbol not in (THINK, END_THINK)]
    )
    for symbol in added:
        if (backend.token_to_id(symbol) or 0) < known:
            raise InputError(f"{path}: cannot add {symbol} behind its {known} tokens; add it to the tokenizer yourself")
    backend.save(str(path))
    config_path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return known


def content(symbol: Any) -> Any:
    """A special token as tokenizer_config.json holds it: its text, or a mapping with that."""
    return symbol.get("content") if isinstance(symbol, dict) else symbol
