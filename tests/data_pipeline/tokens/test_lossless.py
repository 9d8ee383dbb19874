"""What is said to come back as it was does, whatever the text; makes of tokenizers that lose something are known."""

import json

import pytest
from encode_cases import KINDS
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tracestill.data_pipeline.documents.round_trip import RoundTrip
from tracestill.data_pipeline.tokens import lossless
from tracestill.data_pipeline.tokens.lossless import surely_kept
from tracestill.data_pipeline.tokens.render import load_backend
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer

TEXTS = ["What is 3 + 4?", "Größe 漢 <think> 3</think>\n", "a  b\t1,000"] * 9
ADDED = [AddedToken("<think>", normalized=False), AddedToken("<wide>", lstrip=True, rstrip=True, normalized=False)]


def byte_level(cutter=None, **more):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = cutter or pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(False)]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    for name, value in more.items():
        setattr(made, name, value)
    made.add_special_tokens(["<|end|>"])
    made.add_tokens(ADDED)
    return made


def saved(made, folder):
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    root = tmp_path_factory.mktemp("lossless")
    write_tokenizer(train_sentencepiece(TEXTS, 400), root)
    return [RoundTrip(path, KINDS, with_trace=True) for path in (root, saved(byte_level(), root / "bytes"))]


PIECES = [
    "<think>",
    "<wide>",
    " ",
    "  ",
    "\n",
    "\u2581",
    "<0x41>",
    "<|end|>",
    "</s>",
    "é",
    "e\u0301",
    "漢",
    "😀",
    "3",
    "\x00",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=12).map("".join))
@example("a <wide> b")
@example("\u2581")
def test_what_is_surely_kept_comes_back(both, text):
    for trip in both:
        if trip.is_kept(text):
            assert trip.trips([text])[text].back == text
        else:
            assert any(doubt in text for doubt in ("\u2581", "<0x", "<wide>"))


def test_a_text_is_doubtful_for_what_it_holds(both):
    own, bytes_ = (trip.is_kept for trip in both)
    assert own("3 + 4 = 7 漢 </think>\n")
    assert not own("a\u2581b")
    assert bytes_("a\u2581b <think>")
    assert not bytes_("a <wide> b")


LOSSY = {
    "normalised": byte_level(normalizer=normalizers.NFKC()),
    "a space before": byte_level(pre_tokenizers.ByteLevel(True)),
    "left out": byte_level(
        pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "removed"), pre_tokenizers.ByteLevel(False)])
    ),
    "decoded otherwise": byte_level(decoder=decoders.WordPiece()),
    "words": byte_level(pre_tokenizers.Whitespace()),
}


@pytest.mark.parametrize("name", LOSSY)
def test_other_makes_are_looked_at(name, tmp_path):
    path = saved(LOSSY[name], tmp_path / "made") / "tokenizer.json"
    assert not surely_kept(path, load_backend(path))("a b")


@pytest.mark.parametrize(
    ("byte", "lost", "kept"),
    [
        (0x04, "a\x04b", "a\x05b 漢"),
        (0xC3, "ü", "a ā 漢 😀"),
        (0xE6, "漢", "ü ā 3 ⁴ \ud7ff 😀"),
        (0xF0, "😀", "漢 \U00040000"),
        (0xF1, "\U00040000", "\uffff 漢 😀 \U00080000"),
        (0x93, "ü", "abc"),
        (0xFE, None, "ü 漢 😀 \U0010ffff"),
    ],
)
def test_a_missing_byte_is_seen(byte, lost, kept, tmp_path):
    made = json.loads(byte_level().to_str())
    letter = lossless.LETTERS[byte]
    made["model"]["vocab"]["gone"] = made["model"]["vocab"].pop(letter)
    made["model"]["merges"] = [pair for pair in made["model"]["merges"] if letter not in "".join(pair)]
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(made))
    is_kept = surely_kept(path, load_backend(path))
    assert is_kept(kept)
    assert lost is None or not is_kept(lost)
    trip = RoundTrip(tmp_path, KINDS, with_trace=True)
    assert trip.trips([kept])[kept].back == kept


def test_letters_are_those_of_the_library():
    assert sorted(lossless.LETTERS.values()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    for byte, letter in lossless.LETTERS.items():
        if byte < 0x80:
            assert pre_tokenizers.ByteLevel(False, use_regex=False).pre_tokenize_str(chr(byte)) == [(letter, (0, 1))]
