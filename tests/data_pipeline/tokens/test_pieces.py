"""Tokens as text: what a byte-level tokenizer, or byte fallback, parts comes together again."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from tracestill.data_pipeline.tokens.pieces import FOLLOWS, LETTERS, ends_in, pieces
from tracestill.data_pipeline.tokens.tokenizer import fast_tokenizer, train_sentencepiece


def byte_level(merges=()):
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {c: i for i, c in enumerate([*alphabet, *(a + b for a, b in merges)])}
    backend = Tokenizer(BPE(vocabulary, list(merges)))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<|end|>", special=True)])
    return backend


def test_the_letters_of_bytes_are_those_of_the_library():
    assert set(LETTERS) == set(pre_tokenizers.ByteLevel.alphabet())
    backend = byte_level()
    for character in map(chr, [*range(128), 0xE9, 0x9996]):
        letters = backend.encode(character, add_special_tokens=False).tokens
        assert bytes(LETTERS[letter] for letter in letters) == character.encode()


def test_by_hand():
    backend = byte_level([("Ġ", "a")])
    ids = backend.encode("x a首é\n", add_special_tokens=False).ids
    assert pieces(backend, ids) == ["x", " a", "首", FOLLOWS, FOLLOWS, "é", FOLLOWS, "\n"]
    first = ids[2]
    end = backend.token_to_id("<|end|>")
    assert pieces(backend, [first, end, *ids[2:5]]) == ["\ufffd", "<|end|>", "首", FOLLOWS, FOLLOWS]
    assert pieces(backend, [ids[0], first]) == ["x", "\ufffd"]
    merged = byte_level([("ĸ", "7")])  # the last byte of 首 with what follows
    assert pieces(merged, merged.encode("首7").ids)[0].startswith("首")


def test_byte_fallback_and_spaces_of_sentencepiece():
    backend = fast_tokenizer(train_sentencepiece(["so it is so"] * 20, 300))
    ids = backend.encode("so 首\nso", add_special_tokens=False).ids
    found = pieces(backend, ids)
    assert "".join(p for p in found if p != FOLLOWS) == "so 首\nso"
    assert found.count(FOLLOWS) == 2
    assert pieces(backend, [2, 4, 10_000]) == ["<s>", "<think>", "<10000>"]


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=f"\u2581{FOLLOWS}")))
@pytest.mark.parametrize("merges", [(), (("æ", "Ń"), ("Ń", "Ĳ"), ("Ġ", "æ"))])
def test_the_pieces_are_the_text(merges, text):
    """In order and whole, one for each token."""
    for backend in (byte_level(merges), SENTENCES):
        ids = backend.encode(text, add_special_tokens=False).ids
        found = pieces(backend, ids)
        assert len(found) == len(ids)
        assert "".join(p for p in found if p != FOLLOWS) == text
        assert not any(a == "" and b == FOLLOWS for a, b in pairwise(found))


@settings(max_examples=150, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")))
@pytest.mark.parametrize("merges", [(), (("æ", "Ń"), ("Ń", "Ĳ"), ("Ġ", "æ"))])
def test_tokens_end_where_the_library_says_that_they_do(merges, text):
    """But for those that are part of a character: all but the first of them are empty."""
    for backend in (byte_level(merges), SENTENCES):
        encoding = backend.encode(text, add_special_tokens=False)
        found = ends_in(text, backend, encoding.ids)
        cut = {end for start, end in encoding.offsets if sum(start < e and s < end for s, e in encoding.offsets) > 1}
        wanted = [end for _, end in encoding.offsets]
        assert found is not None
        assert len(found) == len(wanted)
        assert [end for end in found if end not in cut] == [end for end in wanted if end not in cut]
        assert found == sorted(found)


def test_ends_of_texts_that_decoders_change():
    words = Tokenizer(WordLevel({"so": 0, "it": 1, "is": 2}, unk_token="is"))
    assert (words.decode([0, 1, 2]), ends_in("so it is", words, [0, 1, 2])) == ("so it is", [2, 5, 8])
    spaced = Tokenizer(WordLevel({"▁so": 0, "▁it": 1, "▁is": 2}, unk_token="▁is"))
    spaced.decoder = decoders.Metaspace()
    assert (spaced.decode([0, 1, 2]), ends_in("so it is", spaced, [0, 1, 2])) == ("so it is", [2, 5, 8])
    spaced.decoder = decoders.Sequence([decoders.Metaspace(), decoders.Replace("it", "that")])
    assert ends_in(spaced.decode([0, 1, 2]), spaced, [0, 1, 2]) is None
    assert ends_in("so it is so", spaced, [0, 1, 2]) is None, "more than the tokens say"
    assert ends_in("", spaced, []) == []


def test_ends_of_what_is_no_text():
    """A character that was cut off, at the end and before another one: decoders write U+FFFD once, or for each byte."""
    for backend in (byte_level(), SENTENCES):
        (*first, _), (*other, _), so = (
            backend.encode(text, add_special_tokens=False).ids for text in ("首", "é", "so")
        )
        for ids in ([*so, *first], [*so, *first, *so], [*first, *other, *so], [*other[1:], *first, *so, *other]):
            text = backend.decode(ids, skip_special_tokens=False)
            found = ends_in(text, backend, ids)
            assert found is not None, (ids, text)
            assert found[-1] == len(text)
            assert found == sorted(found)


SENTENCES = fast_tokenizer(train_sentencepiece(["so it is so, 3 + 4 = 7."] * 20, 330))
