"""Tokens as text a person reads: spaces and line breaks as themselves, characters made of several tokens put together.

A byte-level tokenizer writes each byte as a character of its own (``é¦ĸ`` for 首), one with byte fallback as
``<0xE9>``; either may part a character between tokens.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable

from tokenizers import Tokenizer

FOLLOWS = "‥"  # stands for a token that goes on with the character of the token before it
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
SPACE = "\u2581"
LOST = "\ufffd"


def bytes_of_letters() -> dict[str, int]:
    """Letter -> byte, as byte-level tokenizers write bytes: printable ones stand for themselves, others follow 255."""
    own = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + i): byte for i, byte in enumerate(others)}


LETTERS = bytes_of_letters()


def is_by_bytes(tokenizer: Tokenizer) -> bool:
    """Whether each letter of its tokens is a byte."""
    return "ByteLevel" in f"{tokenizer.pre_tokenizer} {tokenizer.decoder} {tokenizer.normalizer}"


def pieces(tokenizer: Tokenizer, ids: Iterable[int]) -> list[str]:
    """The text of each token. Of tokens that only together are a character the first one has it, the rest FOLLOWS.

    What is no UTF-8 at all is shown as U+FFFD.
    """
    by_bytes = is_by_bytes(tokenizer)
    added = {token: entry.content for token, entry in tokenizer.get_added_tokens_decoder().items()}
    texts: list[str] = []
    reader = codecs.getincrementaldecoder("utf-8")("replace")
    begun = -1  # the token in which the character that is not yet whole begins
    for token in map(int, ids):
        own = added[token].encode() if token in added else raw(tokenizer.id_to_token(token), token, by_bytes)
        if token in added and begun >= 0:  # a symbol ends whatever was begun
            texts[begun] += reader.decode(b"", final=True)
            reader.reset()
            begun = -1
        text = reader.decode(own)
        pending = bool(reader.getstate()[0])
        if begun >= 0:
            texts[begun] += text
            texts.append(FOLLOWS)
        else:
            texts.append(text)
        if not pending:
            begun = -1
        elif begun < 0:
            begun = len(texts) - 1
    if begun >= 0:
        texts[begun] += reader.decode(b"", final=True)
    return texts


def ends_in(text: str, tokenizer: Tokenizer, ids: Iterable[int]) -> list[int] | None:
    """Where each token ends in the text that is decoded from all, in characters: a character made of several tokens is
    the first one's. None if it is not the text of the tokens, one after the other, as where a decoder cleans up."""
    ends: list[int] = []
    at = 0
    for piece in pieces(tokenizer, ids):
        if piece != FOLLOWS or text.startswith(piece, at):
            end = after(piece, text, at)
            if end is None:  # decoders take a space from a text's beginning, or put one in between
                end = after(piece, text, at + 1) if at and text.startswith(" ", at) else None
                end = after(piece.lstrip(" "), text, at) if not at else end
            if end is None:
                return None
            at = end
        ends.append(at)
    return ends if at == len(text) else None


def after(piece: str, text: str, at: int) -> int | None:
    """Where a piece ends that begins at a place of the text; None if it does not. Of what is no UTF-8 some decoders
    write U+FFFD for each byte, others for all: the first piece of such has all that stand there."""
    for part in re.split(f"({LOST}+)", piece):
        if part.startswith(LOST):
            at += len(text[at:]) - len(text[at:].lstrip(LOST))
        elif text.startswith(part, at):
            at += len(part)
        else:
            return None
    return at


def raw(piece: str | None, token: int, by_bytes: bool) -> bytes:
    """The bytes that a piece of the vocabulary stands for."""
    if piece is None:
        return f"<{token}>".encode()
    if by_bytes and all(letter in LETTERS for letter in piece):
        return bytes(LETTERS[letter] for letter in piece)
    if match := BYTE.fullmatch(piece):
        return bytes([int(match[1], 16)])
    return piece.replace(SPACE, " ").encode(errors="replace")
