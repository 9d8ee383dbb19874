"""Text that a tokenizer cannot bring back is counted by kind, told with an example, and refused by a stated share."""

from __future__ import annotations

import shutil

import pyarrow.parquet as pq
import pytest
from encode_cases import KINDS, PLAN, prepare, record
from lossy_tokenizer import KNOWN, made
from pydantic import ValidationError
from tokenizers import decoders, models, normalizers, pre_tokenizers

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.documents.encode import EncodeConfig, run
from tracestill.data_pipeline.documents.round_trip import RoundTrip, fault_of
from tracestill.data_pipeline.tokens.layout import TwoTaskConfig
from tracestill.data_pipeline.tokens.store import TokenStore

HALF = r"\frac{1}{2}"
TRACE = r"Halve 1. 1/2=\fr{a}c~"  # 9 characters that plan


def encoded(root, train, test=(), **config):
    """The manifest of an encode stage with that tokenizer."""
    inputs = prepare(root, train, test)
    for file in made(root / "given").iterdir():
        shutil.copyfile(file, root / "tokenizer" / file.name)
    run(EncodeConfig.model_validate(config), KINDS, PLAN, root / "encode", **inputs)
    return read_manifest(root / "encode")


def fine(count):
    return [record(f"What is {i} + 1?", "so it is", str(i + 1), index=i) for i in range(count)]


def lossy(question="What is it?", index=99):
    return record(question, TRACE, HALF, (Span(0, 9, "plan"), Span(9, 21, "derive")), index=index)


def test_unknown_tokens_are_counted_by_kind_and_told(tmp_path):
    """By hand: \\ { } in the trace's derive (\\, {, } and ~ apart), \\ { }{ } in the answer."""
    manifest = encoded(tmp_path, [*fine(99), lossy()], max_lossy=0.01)
    counts = manifest["counts"]
    assert counts["unknown_tokens"] == {"derive": 4, "answer": 4}
    assert counts["notes"] == {"lossy": 1}
    found = manifest["lost_text"]
    assert found["lossy"] == {"records": 1}
    assert found["characters"] == {"records": {"{": 3, "}": 3, "\\": 2, "~": 1}}
    assert found["examples"]["records"]["text"] == HALF
    (warning,) = manifest["warnings"]
    assert "1 of 100 records (1.0%; '{' 3, '}' 3, '\\\\' 2, '~' 1)" in warning
    assert f"record {lossy().record_id}" in warning
    assert "whose answer '\\\\frac{1}{2}' comes back as '<unk>frac<unk>1<unk>2<unk>'" in warning
    store = TokenStore(tmp_path / "encode" / "tokens.arrow")  # independently: the tokens that are stored
    assert sum((store.tokens(i) == 2).sum() for i in range(len(store))) == 8


def test_more_than_the_stated_share_is_refused(tmp_path):
    with pytest.raises(InputError) as caught:
        encoded(tmp_path / "default", [*fine(98), lossy(), lossy(index=100)])
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}/default/select/records.parquet: the tokenizer loses characters of 2 of 100")
    assert "encode.max_lossy (now 0.01)" in text
    assert "\n" not in text
    assert not (tmp_path / "default" / "encode").exists()
    assert "lost_text" in encoded(tmp_path / "allowed", [*fine(98), lossy(), lossy(index=100)], max_lossy=0.02)
    with pytest.raises(InputError, match=r"1 of 1 records .*encode\.max_lossy \(now 0\)"):
        encoded(tmp_path / "none", [lossy()], max_lossy=0)
    with pytest.raises(ValidationError):
        EncodeConfig(max_lossy=1.5)


def test_held_out_questions_whose_gold_cannot_be_written_are_refused(tmp_path):
    """No record of theirs need be lossy: the gold is what an answer is compared with."""
    gold = [record(f"Ask {i}?", "so", "7", index=i) for i in range(3)]
    inputs = prepare(tmp_path, fine(10), gold)
    for file in made(tmp_path / "given").iterdir():
        shutil.copyfile(file, tmp_path / "tokenizer" / file.name)
    path = inputs["sample"] / "questions.parquet"
    table = pq.read_table(path)
    rows = table.to_pylist()
    for row in rows:
        if row["split"] == "test":
            row["gold"] = {"Ask 0?": HALF, "Ask 1?": "7~8", "Ask 2?": "$7"}[row["question"]]
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), path)
    with pytest.raises(InputError, match=r"loses characters of 2 of 3 held-out questions .*whose gold '\\\\frac"):
        run(EncodeConfig(), KINDS, PLAN, tmp_path / "encode", **inputs)  # "$7" is right as 7


def test_texts_of_the_recipe_are_checked_too(tmp_path):
    task = TwoTaskConfig(trace_prefix="{why} ", answer_prefix="[what] ")
    with pytest.raises(InputError, match=r"encode\.two_task\.trace_prefix: the tokenizer loses .*'<unk>why<unk>"):
        encoded(tmp_path, fine(3), two_task=task)


def test_a_text_that_survives_is_silent(tmp_path):
    manifest = encoded(tmp_path, fine(5), fine(2))
    assert not {"lost_text", "warnings"} & manifest.keys()
    assert not {"notes", "unknown_tokens"} & manifest["counts"].keys()


LETTERS = {character: i for i, character in enumerate(["<pad>", "</s>", "[UNK]", *KNOWN])}


@pytest.mark.parametrize(
    ("options", "text", "fault"),
    [
        ({}, "a b", None),
        ({}, "a\nb", "lost"),  # a newline is unknown
        ({"normalizer": normalizers.Replace("\n", " ")}, "a\nb", "spaces"),
        ({"normalizer": normalizers.NFKC()}, "a\uff11", "form"),
        ({"normalizer": normalizers.Lowercase()}, "Add ABC", "form"),
        ({"normalizer": normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])}, "café", "lost"),
        ({"normalizer": normalizers.NFC()}, "cafe\u0301", "lost"),  # é is none of its characters
        ({"decoder": decoders.Fuse()}, "a b", "lost"),  # ▁a▁b
        ({"decoder": decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])}, "a b", "spaces"),  # " a b"
        ({"model": models.BPE(LETTERS, [])}, "a~b", "lost"),  # no unknown token: it vanishes
        ({"model": models.BPE(LETTERS, [], unk_token="[UNK]"), "unknown": "[UNK]"}, "a~b", "lost"),
        ({"model": models.WordLevel(LETTERS, unk_token="[UNK]"), "unknown": "[UNK]",
          "pre": pre_tokenizers.WhitespaceSplit(), "decoder": decoders.WordPiece()}, "a bad b", "lost"),
    ],
)  # fmt: skip
def test_every_way_of_losing_text_is_told_apart(tmp_path, options, text, fault):
    trip = RoundTrip(made(tmp_path / "made", **options), KINDS, with_trace=True)
    assert trip.trips([text])[text].fault == fault


def test_byte_fallback_loses_nothing(tmp_path):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((c, -2.0) for c in KNOWN)]
    pieces += [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    decoder = decoders.Sequence([decoder, decoders.Strip(" ", 1, 0)])
    path = made(tmp_path / "made", models.Unigram(pieces, unk_id=2, byte_fallback=True), decoder=decoder)
    trip = RoundTrip(path, KINDS, with_trace=True)
    trip.add([lossy("Größe 漢\n😀?")])
    assert not trip.findings()
    assert not trip.lost.notes


def test_an_answer_that_no_longer_means_the_same_is_lost(tmp_path):
    """``1 1/2`` without its space is another number, though only white space differs."""
    squeezing = normalizers.Replace(" ", "")
    trip = RoundTrip(made(tmp_path / "made", normalizer=squeezing), KINDS, with_trace=True)
    trip.add([record("so", "a b", "1 1/2", (Span(0, 3, "prose"),)), record("so", "a b", "3", (Span(0, 3, "prose"),))])
    assert trip.lost.lossy["records"] == 1
    assert trip.lost.notes == {"lossy": 1, "changed_spaces": 2}


def test_texts_that_differ_in_nothing_but_form():
    assert fault_of("x", "x", False) is None
    assert fault_of("½ x", "1⁄2 X", False) == "form"
    assert fault_of("ab", "a b", False) == "spaces"
    assert fault_of("ab", "ac", False) == "lost"
    assert fault_of("ab", "ab", True) == "lost"
