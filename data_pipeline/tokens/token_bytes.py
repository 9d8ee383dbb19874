"""The bytes that each token of a vocabulary stands for, so that what two tokenizers make of a text can be compared."""

from __future__ import annotations

from tokenizers import Tokenizer

from tracestill.data_pipeline.tokens.pieces import BYTE, LETTERS, SPACE, is_by_bytes


def token_bytes(tokenizer: Tokenizer) -> dict[int, bytes]:
    """Id -> its bytes in a text; of tokens that were added, such as control symbols, those of their name."""
    by_bytes = is_by_bytes(tokenizer)
    added = {token: entry.content for token, entry in tokenizer.get_added_tokens_decoder().items()}
    found = {}
    for piece, token in tokenizer.get_vocab(with_added_tokens=True).items():
        if token in added:
            found[token] = added[token].encode()
        elif by_bytes:
            found[token] = bytes(LETTERS[letter] for letter in piece if letter in LETTERS)
        elif (byte := BYTE.fullmatch(piece)) is not None:
            found[token] = bytes([int(byte[1], 16)])
        else:
            found[token] = piece.replace(SPACE, " ").encode()
    return found
