"""Pieces of texts that are tokenised once: token for token what the library makes of each whole text."""

from __future__ import annotations

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_texts import ODD
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from tracestill.data_pipeline.tokens import cuts, remembered
from tracestill.data_pipeline.tokens.remembered import Remembered, Tokens
from tracestill.data_pipeline.tokens.tokenizer import fast_tokenizer, train_sentencepiece

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
WORDS = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
SPLITS = {
    f"pattern {at}": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), BYTES])
    for at, pattern in enumerate(sorted(cuts.PATTERNS))
}
CUTTERS = {
    "gpt2": WORDS,
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), WORDS]),
    **SPLITS,
}
NAMES = (*CUTTERS, "composed", "trained here")


@cache
def built(name: str) -> str:
    """tokenizer.json of a small tokenizer that knows the words of the odd texts."""
    if name == "trained here":
        return fast_tokenizer(train_sentencepiece(list(ODD), 500)).to_str()
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = CUTTERS.get(name, SPLITS["pattern 0"])
    if name == "composed":
        tokenizer.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        show_progress=False,
        special_tokens=["<|end|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator([*ODD, "\n\n", ".\n\n", "  ", "   x", "<think>"] * 3, trainer)
    tokenizer.add_tokens([AddedToken(tag, normalized=False) for tag in ("<think>", "</think>", "</think>\n")])
    return tokenizer.to_str()


@cache
def case(name: str, symbols: bool) -> Remembered:
    backend = Tokenizer.from_str(built(name))
    backend.encode_special_tokens = not symbols
    return Remembered(backend)


def plain(backend: Tokenizer, texts: list[str]) -> list[list[tuple[int, int, int, int]]]:
    """Id, first and last character and the first that is visible of each token of each text, by a loop."""
    found = []
    for text in texts:
        one = backend.encode(text, add_special_tokens=False)
        rows = []
        for token, (begin, end) in zip(one.ids, one.offsets, strict=True):
            seen = next((at for at in range(begin, end) if not text[at].isspace()), min(begin, len(text) - 1))
            rows.append((token, begin, end, seen))
        found.append(rows)
    return found


def rows_of(found: Tokens) -> list[list[tuple[int, int, int, int]]]:
    columns = zip(found.ids.tolist(), found.begins.tolist(), found.ends.tolist(), found.seen.tolist(), strict=True)
    rows = list(columns)
    return [rows[begin:end] for begin, end in zip(found.bounds, found.bounds[1:], strict=False)]


PIECES = [
    *ODD,
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    " b",
    "'s",
    "'S",
    "7",
    " 12",
    ".",
    "$",
    "\u0301",
    "é",
    " 漢",
    "</think>\n",
]
texts = st.lists(
    st.one_of(st.lists(st.sampled_from(PIECES), max_size=8).map("".join), st.text(max_size=30)), max_size=6
)


@pytest.mark.parametrize("symbols", [True, False], ids=["symbols", "literal"])
@pytest.mark.parametrize("name", NAMES)
def test_pieces_give_the_tokens_of_the_whole_text(name: str, symbols: bool) -> None:
    own = case(name, symbols)
    assert own.memory is not None, "this tokenizer's texts are cut"

    @settings(max_examples=60, deadline=None)
    @given(texts)
    def same(some: list[str]) -> None:
        assert rows_of(own(some)) == plain(own.backend, some)

    same()
    assert rows_of(own([])) == []
    assert rows_of(own(ODD)) == plain(own.backend, list(ODD))
    before = len(own.memory.places)
    assert rows_of(own(ODD)) == plain(own.backend, list(ODD)), "from memory alone"
    assert len(own.memory.places) == before


def test_words_are_taken_from_memory_and_not_from_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Remembered(Tokenizer.from_str(built("gpt2")))
    own(["He has 3 apples and 4 pears.", "She has 12 apples."])
    asked: list[str] = []
    whole = own.memory.make.make
    monkeypatch.setattr(own.memory.make, "make", lambda new: asked.extend(new) or whole(new))
    own(["She has 4 pears and 3 apples.", "He has (12 apples)."])
    assert asked == [" (", "12", ")."], "all other words were there, if not beside these marks"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Remembered(Tokenizer.from_str(built("gpt2")))
    first = rows_of(own(ODD))
    monkeypatch.setattr(remembered, "MOST_PIECES", 3)
    assert rows_of(own(ODD)) == first
    own(["a b"])
    assert len(own.memory.places) == 2, "of the last texts alone"
    assert rows_of(own(ODD)) == first


def changed(name: str, change) -> Tokenizer:
    made = json.loads(built(name))
    change(made)
    return Tokenizer.from_str(json.dumps(made))


UNSAFE = {
    "an unknown pattern": lambda made: made["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+ \w+"}),
    "words that are left out": lambda made: made["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
    "a space before each text": lambda made: made["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    "lower case": lambda made: made.update(normalizer={"type": "Lowercase"}),
    "a token that takes spaces along": lambda made: made["added_tokens"][0].update(rstrip=True),
    "a token with a space": lambda made: made["added_tokens"][0].update(content="<| end|>"),
    "dropout": lambda made: made["model"].update(dropout=0.5),
}


@pytest.mark.parametrize("what", UNSAFE)
def test_other_tokenizers_get_whole_texts(what: str) -> None:
    backend = changed("pattern 1", UNSAFE[what])
    own = Remembered(backend)
    assert own.memory is None
    if what != "dropout":
        assert rows_of(own(ODD)) == plain(backend, list(ODD))


def test_tokens_that_join_words_are_not_cut() -> None:
    def joined(made) -> None:
        vocabulary = made["model"]["vocab"]
        vocabulary["a▁b"] = max(vocabulary.values()) + 1

    assert Remembered(changed("trained here", joined)).memory is None


def test_a_symbol_that_is_read_as_text_hides_what_begins_in_it() -> None:
    """The library looks for added tokens from left to right, and passes by those that are to be text."""
    backend = Tokenizer.from_str(built("gpt2"))
    backend.add_special_tokens([AddedToken("ab<x>", normalized=False, special=True)])
    backend.add_tokens([AddedToken("<x>y", normalized=False)])
    for literal in (True, False):
        backend.encode_special_tokens = literal
        own = Remembered(backend)
        assert own.memory is not None
        some = ["so ab<x>y", "so <x>y", "ab<x> y"]
        assert rows_of(own(some)) == plain(backend, some)


def test_offsets_that_a_processor_moves_are_not_taken_from_pieces() -> None:
    backend = Tokenizer.from_str(built("gpt2"))
    for trims in (True, False):
        backend.post_processor = processors.ByteLevel(trim_offsets=trims, add_prefix_space=False)
        own = Remembered(backend)
        assert (own.memory is None) == trims
        assert rows_of(own(ODD)) == plain(backend, list(ODD))


def test_a_tokenizer_that_fails_the_probe_gets_whole_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with what is known of it."""
    monkeypatch.setattr(cuts, "PIECE", cuts.re.compile("(?= )"))
    monkeypatch.setattr(cuts.Cuts, "keys", lambda self, text: [" " + letter for letter in text] or [" "])
    assert Remembered(Tokenizer.from_str(built("gpt2"))).memory is None


def test_columns_are_of_the_types_that_are_told() -> None:
    found = case("gpt2", True)(["a b", ""])
    assert [found.ids.dtype, found.begins.dtype, found.ends.dtype, found.seen.dtype] == [np.int32] * 4
    assert found.lengths.tolist() == [2, 0]
