"""Tokenizers that give back every text as it was, by the way they are made: then nobody has to look.

Two makes are known. Byte-level BPE that does not normalise, for text without the bytes that it has no token for; and
BPE with byte fallback that only writes U+2581 for the space, as the tokenizers trained here. Both cut text without
leaving anything out, and put bytes that are no token of their own together again. Tokens that were added to them are
looked for in the text first; one that swallows spaces beside it, or is decoded as something else, makes a text
doubtful.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

SPACE = "\u2581"
BYTES = {f"<0x{byte:02X}>" for byte in range(256)}
PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that byte-level BPE writes as they are
OTHERS = [byte for byte in range(256) if byte not in PRINTED]  # it writes these as the letters from 256 on
LETTERS = {**{byte: chr(byte) for byte in PRINTED}, **{byte: chr(256 + at) for at, byte in enumerate(OTHERS)}}
KEEPING = ("Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")  # ways to split; Removed is the other one


def surely_kept(path: Path, backend: Tokenizer) -> Callable[[str], bool]:
    """Says of a text whether the tokenizer of a tokenizer.json, whose backend reads literal special tokens as text,
    certainly gives it back as it was. False: it may not."""
    made = json.loads(path.read_text(encoding="utf-8"))
    doubtful = doubts_of(made)
    if doubtful is None:
        return lambda text: False
    for token in made.get("added_tokens") or ():
        if token["special"]:
            continue
        if made.get("normalizer") is not None and token["normalized"]:
            return lambda text: False  # it is looked for in another text
        own = backend.decode([token["id"]], skip_special_tokens=False)
        if token["lstrip"] or token["rstrip"] or own != token["content"]:
            doubtful.append(re.escape(token["content"]))
    search = re.compile("|".join(doubtful) or "(?!)").search
    return lambda text: search(text) is None


def doubts_of(made: dict[str, Any]) -> list[str] | None:
    """Patterns of what is in a text that may come back as another one; None: any text may."""
    model = made["model"]
    plain = model.get("type") == "BPE" and not any(
        model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")
    )
    if not plain:
        return None
    vocabulary, normalizer, cutter = model["vocab"], made.get("normalizer"), made.get("pre_tokenizer")
    if normalizer is None and is_byte_level(cutter) and (made.get("decoder") or {}).get("type") == "ByteLevel":
        missing = "".join(characters_of(byte) for byte, letter in LETTERS.items() if letter not in vocabulary)
        return [f"[{missing}]"] if missing else []
    spaced = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    back = [{"type": "Replace", "pattern": {"String": SPACE}, "content": " "}, {"type": "ByteFallback"}]
    decoder = {"type": "Sequence", "decoders": [*back, {"type": "Fuse"}]}
    if normalizer == spaced and cutter is None and made.get("decoder") == decoder and model.get("byte_fallback"):
        return [SPACE, "<0x"] if vocabulary.keys() >= BYTES else None
    return None


def characters_of(byte: int) -> str:
    """The characters in whose UTF-8 a byte is, as the inside of a pattern's set; empty if there are none."""
    if byte < 0x80:
        return re.escape(chr(byte))
    if byte < 0xC0:
        return f"\x80-{chr(sys.maxunicode)}"
    leads = ((0xF0, 18, 0x10000), (0xE0, 12, 0x800), (0xC0, 6, 0x80))
    lead, width, least = next(about for about in leads if byte >= about[0])
    first = max((byte - lead) << width, least)
    last = min((byte - lead + 1) << width, sys.maxunicode + 1) - 1
    return f"{chr(first)}-{chr(last)}" if first <= last else ""


def is_byte_level(cutter: dict[str, Any] | None) -> bool:
    """Whether text is cut, and at last written as bytes, without a space more and nothing left out."""
    steps = (cutter or {}).get("pretokenizers", [cutter])
    *before, last = [step or {} for step in steps]
    cuts = all(
        step.get("type") == "Digits" or (step.get("type") == "Split" and step.get("behavior") in KEEPING)
        for step in before
    )
    return cuts and last.get("type") == "ByteLevel" and last.get("add_prefix_space") is False
