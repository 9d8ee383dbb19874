"""The tokenizer: SentencePiece and transformers agree on every text, and a bad tokenizer is refused by name."""

import json
import random
import shutil
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, write_rows
from tracestill.data_pipeline.base.stage import is_current, read_manifest, stage
from tracestill.data_pipeline.tokens import tokenizer as tokenizer_module
from tracestill.data_pipeline.tokens.render import load_tokenizer, prompt_ids, split_output
from tracestill.data_pipeline.tokens.tokenizer import (
    CONTROLS,
    RESERVED,
    TAGS,
    TokenizerConfig,
    fast_tokenizer,
    run,
    stage_config,
    train_sentencepiece,
    write_tokenizer,
)

WORDS = [
    "take",
    "add",
    "carry",
    "check",
    "so",
    "the",
    "sum",
    "of",
    "12",
    "and",
    "7",
    "is",
    "19;",
    "Größe",
    "naïve",
    "三",
    "→",
    "x^2",
    "=",
    "4.",
]


def corpus(lines=200, seed=0):
    rng = random.Random(seed)
    return [
        " ".join(rng.choices(WORDS, k=rng.randint(1, 12))) + rng.choice([".", "\n  so 3 + 4 = 7."])
        for _ in range(lines)
    ]


@pytest.fixture(scope="module")
def model():
    return train_sentencepiece(corpus(), 400)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(model, path)
    return path


@pytest.fixture(scope="module")
def auto(directory):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


def write_stages(root, records, tests=()):
    """Finished sample and select stages: a record for each (question, trace, answer); ``tests`` are held out."""
    rows = [
        dict.fromkeys(RECORD_SCHEMA.names, "")
        | {"record_id": f"r{i}", "question_id": f"q{q}", "question": q, "trace": t, "answer": a}
        | {"spans": [], "weight": 1.0, "temperature": 1.0, "index": 0}
        for i, (q, t, a) in enumerate([*records, *tests])
    ]
    held_out = {q: ("validation", "test")[i % 2] for i, (q, _, _) in enumerate(tests)}
    questions = [
        dict.fromkeys(QUESTION_SCHEMA.names, "")
        | {"question_id": f"q{q}", "question": q, "split": held_out.get(q, "train")}
        for q in dict.fromkeys(row["question"] for row in rows)
    ]
    with stage(root / "sample", "sample", {}, {}) as work:
        write_rows(work.path / "questions.parquet", questions, QUESTION_SCHEMA)
    with stage(root / "select", "select", {}, {}) as work:
        write_rows(work.path / "records.parquet", rows, RECORD_SCHEMA)
    return {"sample": root / "sample", "select": root / "select"}


# ---- the trained tokenizer


def without_tags(model):
    """The same model, to which a think tag in a text is text."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)
    for piece in proto.pieces:
        if piece.piece in TAGS:
            piece.type = piece.CONTROL
    return proto.SerializeToString()


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u2581")) | st.lists(
    st.sampled_from([*WORDS, " ", "  ", "\n", "\t", "0", "97", "<s>", "</think>", "<0x41>", "é", "漢", "😀", "\u0301"])
).map("".join)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@example("   leading and    many spaces   ")
@example("a <think> b </s><pad>")
@example("\x00\r\n\u200b\ufeff")
def test_ids_are_those_of_sentencepiece_and_decode_to_the_text(model, directory, auto, text):
    reference = sentencepiece.SentencePieceProcessor(model_proto=without_tags(model))
    ids = load_tokenizer(directory).encode([text])[0].ids
    assert ids == reference.encode(text)
    assert load_tokenizer(directory).decode(ids) == text
    assert max(ids, default=0) < reference.vocab_size()
    assert not set(ids) & set(range(len(CONTROLS)))  # literal control symbols stay text, nothing is unknown
    if not any(tag in text for tag in TAGS):  # plain transformers reads a tag in a text as the tag
        assert auto(text, add_special_tokens=False, split_special_tokens=True).input_ids == ids


@pytest.mark.parametrize("alphabet", ["ab", "  ab", "a b\n", "aé漢 ."])
def test_ids_agree_where_merges_overlap(alphabet):
    rng = random.Random(alphabet)
    texts = ["".join(rng.choices(alphabet, k=rng.randint(1, 150))) for _ in range(60)]
    model = train_sentencepiece(texts, 500)
    reference, fast = sentencepiece.SentencePieceProcessor(model_proto=model), fast_tokenizer(model)
    assert reference.vocab_size() > RESERVED + 20  # there are merges to disagree on
    for _ in range(100):
        text = "".join(rng.choices(alphabet, k=rng.randint(0, 80)))
        assert fast.encode(text, add_special_tokens=False).ids == reference.encode(text)


def test_digits_newlines_and_controls_are_single_tokens(directory):
    tokenizer = load_tokenizer(directory)
    pieces = tokenizer.encode(["sum 1234\n\nof 12"])[0].tokens
    assert [p for p in pieces if any(c.isdigit() for c in p)] == list("123412")
    assert pieces.count("\n") == 2
    vocabulary = tokenizer.backend.get_vocab()
    assert [vocabulary[name] for name in CONTROLS] == [0, 1, 2, 3, 4, 5]
    assert not [p for p in vocabulary if "\n" in p and p != "\n"]
    assert not [p for p in vocabulary if any(c.isdigit() for c in p) and len(p) > 1 and not p.startswith("<0x")]
    assert any(len(p) > 3 for p in vocabulary)  # words are learnt


def test_auto_tokenizer_loads_it_whole(directory, auto):
    tokenizer = load_tokenizer(directory)
    assert (auto.bos_token, auto.eos_token, auto.pad_token, auto.unk_token) == ("<s>", "</s>", "<pad>", "<unk>")
    assert len(auto) == tokenizer.size
    ids = tokenizer.special_ids
    assert (auto.bos_token_id, auto.eos_token_id, auto.pad_token_id) == (ids["bos"], ids["eos"], ids["pad"])
    assert auto.convert_tokens_to_ids(["<think>", "</think>"]) == [ids["think"], ids["end_think"]]
    assert auto("<think>so</think>", add_special_tokens=False).input_ids[0] == ids["think"]
    question = "take 12 and 7: Größe?"
    assert auto(question).input_ids == prompt_ids(tokenizer, question)  # a plain call gives the generation prompt
    chat = auto.apply_chat_template([{"role": "user", "content": question}], tokenize=True, return_dict=False)
    assert chat == prompt_ids(tokenizer, question)
    padded = auto([question, "so"], padding=True)
    assert padded.input_ids[1][0] == ids["pad"]  # on the left, as generation needs it


def test_the_tags_stay_where_special_tokens_are_left_out(model, directory, auto, tmp_path):
    """Pipelines and servers leave them out; without the tags, trace and answer would be one text."""
    tokenizer = load_tokenizer(directory)
    trace, answer = (encoding.ids for encoding in tokenizer.encode(["so 12 and 7", "19"]))
    ids = [tokenizer.bos, tokenizer.think, *trace, tokenizer.end_think, *answer, tokenizer.eos, tokenizer.pad]
    auto.save_pretrained(tmp_path)
    again = type(auto).from_pretrained(tmp_path)
    for reader in (auto, again):
        assert reader.decode(ids, skip_special_tokens=True) == "<think>so 12 and 7</think>19"
        assert not set(TAGS) & set(reader.all_special_tokens)
    assert sentencepiece.SentencePieceProcessor(model_proto=model).decode(ids[:-1]) == "<think>so 12 and 7</think>19"
    assert tokenizer.decode(ids) == "so 12 and 719"  # readers of answers split at the tags' ids first
    assert split_output(tokenizer, ids) == ("so 12 and 7", "19", True)


def test_auto_tokenizer_ignores_the_model_beside_it(directory, auto, tmp_path):
    """In an export, config.json names a model whose own tokenizer class would build another normaliser.

    (transformers 5 insists on its own class for a list of others, such as qwen2 and phi3.)
    """
    from transformers import AutoTokenizer

    text = "  take 12\n and é "
    for model_type in ("llama", "qwen3", "mistral", "gpt2"):
        path = tmp_path / model_type
        shutil.copytree(directory, path)
        (path / "config.json").write_text(json.dumps({"model_type": model_type}))
        assert AutoTokenizer.from_pretrained(path)(text).input_ids == auto(text).input_ids
        AutoTokenizer.from_pretrained(path).save_pretrained(path / "again")
        assert AutoTokenizer.from_pretrained(path / "again")(text).input_ids == auto(text).input_ids


def test_training_is_deterministic_and_keeps_no_path():
    assert train_sentencepiece(corpus(), 400) == train_sentencepiece(corpus(), 400)
    code = (
        "import hashlib, sys; from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece as t;"
        "print(hashlib.sha256(t(sys.stdin.read().split('|'), 400)).hexdigest())"
    )
    texts = "|".join(corpus()).encode()
    digests = {
        subprocess.run([sys.executable, "-c", code], input=texts, capture_output=True, check=True).stdout
        for _ in range(2)
    }
    assert len(digests) == 1


def test_a_small_text_gives_a_small_vocabulary():
    sizes = [
        sentencepiece.SentencePieceProcessor(model_proto=train_sentencepiece(texts, 5000)).vocab_size()
        for texts in (["a"], ["7"], ["so so"], corpus())
    ]
    assert sizes[0] == RESERVED + 1
    assert all(RESERVED < size < 5000 for size in sizes)
    with pytest.raises(InputError, match="the training text is empty"):
        train_sentencepiece(["", "\n"], 400)


def test_rare_characters_become_bytes_instead_of_failing():
    texts = ["".join(map(chr, range(0x4E00, 0x4E00 + 2000))), *corpus()]
    model = train_sentencepiece(texts, 400)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert reference.vocab_size() <= 400
    assert reference.decode(reference.encode(texts[0])) == texts[0]
    assert len(reference.encode("take")) == 1  # room is left for words


# ---- the stage


def test_the_stage_trains_on_training_records_only(tmp_path, monkeypatch):
    seen = []
    train = tokenizer_module.train_sentencepiece
    monkeypatch.setattr(tokenizer_module, "train_sentencepiece", lambda t, size: seen.extend(t) or train(t, size))
    inputs = write_stages(
        tmp_path, [("q one", "t one", "a one"), ("q two", "t two", "a two")], [("secret", "st", "sa")]
    )
    config = TokenizerConfig(vocab_size=300)
    run(config, tmp_path / "tokenizer", **inputs)
    assert seen == ["q one", "t one", "a one", "q two", "t two", "a two"]
    manifest = read_manifest(tmp_path / "tokenizer")
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    assert manifest["vocab_size"] == tokenizer.size == tokenizer.backend.get_vocab_size() <= 300
    assert manifest["special_ids"] == {"bos": 2, "eos": 3, "pad": 0, "think": 4, "end_think": 5}
    assert (tmp_path / "tokenizer" / "tokenizer.model").exists()
    assert is_current(tmp_path / "tokenizer", "tokenizer", stage_config(config), inputs)
    assert not is_current(tmp_path / "tokenizer", "tokenizer", stage_config(TokenizerConfig(vocab_size=301)), inputs)


def test_a_large_corpus_is_read_in_strides(tmp_path, monkeypatch):
    inputs = write_stages(tmp_path, [(f"q{i}", "tttt", "aa") for i in range(10)])
    monkeypatch.setattr(tokenizer_module, "TRAIN_CHARACTERS", 40)  # of 80: every second record
    held_out = tokenizer_module.held_out_questions(inputs["sample"])
    texts = tokenizer_module.training_text(inputs["select"] / "records.parquet", held_out)
    assert texts[::3] == ["q0", "q2", "q4", "q6", "q8"]


def test_nothing_to_train_on_is_refused(tmp_path):
    inputs = write_stages(tmp_path, [], [("only", "held", "out")])
    with pytest.raises(InputError, match="holds no record of a training question"):
        run(TokenizerConfig(), tmp_path / "tokenizer", **inputs)
    assert not (tmp_path / "tokenizer").exists()
    (tmp_path / "select" / "records.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(InputError, match=r"records\.parquet: not a readable Parquet file"):
        run(TokenizerConfig(), tmp_path / "tokenizer", **inputs)
    pq.write_table(pa.table({"question": ["x"]}), tmp_path / "select" / "records.parquet")
    with pytest.raises(InputError, match=r"records\.parquet: lacks the columns question_id, trace, answer"):
        run(TokenizerConfig(), tmp_path / "tokenizer", **inputs)


# ---- a tokenizer that the user gives


def byte_level(path, special=True, drop=(), **config):
    """A byte-level tokenizer with roles of its own, as pretrained models have them."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(BPE({c: i for i, c in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    roles = {"bos_token": "<|start|>", "eos_token": "<|end|>", "pad_token": {"content": "<|end|>"}}
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|start|>", "<|end|>") if t not in drop])
    thinks = [AddedToken(t, special=special) for t in ("<think>", "</think>") if t not in drop]
    backend.add_tokens(thinks)
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    path.mkdir()
    backend.save(str(path / "tokenizer.json"))
    config = {"tokenizer_class": "TokenizersBackend", **roles, **config}
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("special", [True, False])
def test_a_given_tokenizer_is_copied_and_used(tmp_path, special):
    source = byte_level(tmp_path / "given", special)
    inputs = write_stages(tmp_path, [("q", "t", "a")])
    config = TokenizerConfig(path=source)
    run(config, tmp_path / "tokenizer", **inputs)
    tokenizer = load_tokenizer(tmp_path / "tokenizer")
    ids = read_manifest(tmp_path / "tokenizer")["special_ids"]
    assert ids == {"bos": 256, "eos": 257, "pad": 257, "think": 258, "end_think": 259}
    assert read_manifest(tmp_path / "tokenizer")["vocab_size"] == 260
    text = "what is <think> 漢 </think><|end|>?"
    assert len(prompt_ids(tokenizer, text)) == 1 + len(text.encode())  # not truncated, nothing taken for a control
    assert tokenizer.decode(prompt_ids(tokenizer, text)) == text
    assert is_current(tmp_path / "tokenizer", "tokenizer", stage_config(config), inputs)
    (source / "chat_template.jinja").write_text("changed")
    assert not is_current(tmp_path / "tokenizer", "tokenizer", stage_config(config), inputs)


def test_a_given_tokenizer_that_lacks_a_control_symbol_is_refused(tmp_path):
    cases = {
        "think": ({"drop": ("<think>",)}, "lacks the control symbol <think>; add it"),
        "end": ({"drop": ("</think>",)}, "lacks the control symbol </think>; add it"),
        "bos": ({"bos_token": None}, 'lacks the control symbol bos_token .*; set "bos_token" in tokenizer_config'),
        "eos": ({"drop": ("<|end|>",)}, "lacks the control symbol eos_token"),
        "pad": ({"pad_token": "[PAD]"}, r"lacks the control symbol pad_token \(found '\[PAD\]'\)"),
    }
    for name, (options, message) in cases.items():
        config = TokenizerConfig(path=byte_level(tmp_path / name, **options))
        with pytest.raises(InputError, match=message) as info:
            run(config, tmp_path / "tokenizer", sample=tmp_path, select=tmp_path)
        assert "\n" not in str(info.value)
        assert str(tmp_path / name) in str(info.value)


def test_an_unreadable_tokenizer_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"nowhere/tokenizer\.json: no such file"):
        load_tokenizer(tmp_path / "nowhere")
    path = byte_level(tmp_path / "given")
    (path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object"):
        load_tokenizer(path)
    (path / "tokenizer_config.json").write_text("{")
    with pytest.raises(InputError, match=r"tokenizer_config\.json: not readable as JSON"):
        load_tokenizer(path)
    (path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: not a tokenizer"):
        load_tokenizer(path)


def test_config():
    assert TokenizerConfig().vocab_size == 8192
    assert TokenizerConfig(path="x").vocab_size is None
    assert TokenizerConfig.model_validate(TokenizerConfig(path="x").model_dump(mode="json")).vocab_size is None
    for bad in ({"vocab_size": 400, "path": "x"}, {"vocab_size": 100}, {"size": 400}):
        with pytest.raises(ValidationError):
            TokenizerConfig(**bad)


# ---- what a model writes


def test_output_is_split_whatever_the_model_writes(directory):
    t = load_tokenizer(directory)
    trace, answer = t.encode(["so 3 + 4 = 7."])[0].ids, t.encode(["7"])[0].ids
    whole = [t.think, *trace, t.end_think, *answer, t.eos]
    assert split_output(t, whole) == ("so 3 + 4 = 7.", "7", True)
    assert split_output(t, [*whole, t.pad, t.pad, *trace]) == ("so 3 + 4 = 7.", "7", True)
    assert split_output(t, whole[1:]) == ("so 3 + 4 = 7.", "7", True)  # no <think>
    assert split_output(t, whole[:-1]) == ("so 3 + 4 = 7.", "7", False)  # cut off
    assert split_output(t, [t.think, *trace]) == ("so 3 + 4 = 7.", "", False)
    assert split_output(t, [t.think, *trace, t.eos]) == ("so 3 + 4 = 7.", "", True)
    assert split_output(t, [t.think, t.end_think, *answer, t.eos]) == ("", "7", True)
    assert split_output(t, [*whole[:-1], t.end_think, *answer]) == ("so 3 + 4 = 7.", "77", False)
    assert split_output(t, []) == ("", "", False)


@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 320), max_size=30))
def test_any_ids_can_be_split(directory, ids):
    tokenizer = load_tokenizer(directory)
    output = split_output(tokenizer, ids)
    assert output.finished == (tokenizer.eos in ids)
    assert not any(name in output.trace + output.answer for name in CONTROLS)
