"""A model with another tokenizer: what it says of the store's tokens, against its own words on the text alone."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_export import tiny_config
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from tokenizers.models import BPE

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import BUILT_IN
from tracestill.data_pipeline.channels.channel import topk
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.data_pipeline.tokens.token_bytes import token_bytes
from tracestill.trainer.batches.rectangles import layout_for
from tracestill.trainer.recipe.settings import StudentConfig
from tracestill.trainer.scoring.align import OtherTokens, Translation, coverage
from tracestill.trainer.scoring.reading import LocalModel
from tracestill.trainer.scoring.shard import read_shard
from tracestill.trainer.student.student import build_student

KINDS = Kinds()
LETTERS = "abcdefgh "
TEXTS = ["abcd efgh ab", "hgfe dc ba  abcd", "aaaa bbb"]


def byte_level(merges: list[tuple[str, str]], special: list[str]) -> Tokenizer:
    """Bytes as letters, joined by merges, behind control symbols."""
    space = pre_tokenizers.ByteLevel.alphabet()
    pieces = [*special, *sorted(space), *(a + b for a, b in merges)]
    made = Tokenizer(BPE({piece: i for i, piece in enumerate(pieces)}, merges))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(special)
    return made


def by_pieces(pieces: list[str], special: list[str]) -> Tokenizer:
    """Pieces of a unigram model with bytes to fall back on, as SentencePiece's."""
    rows = [(name, 0.0) for name in special] + [(piece, -9.0 if len(piece) == 1 else -3.0) for piece in pieces]
    rows += [(f"<0x{byte:02X}>", -50.0) for byte in range(256)]
    made = Tokenizer(models.Unigram(rows, unk_id=0, byte_fallback=True))
    made.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=False)
    made.add_special_tokens(special)
    return made


OURS = byte_level([("a", "b"), ("c", "d"), ("Ġ", "e"), ("ab", "cd")], ["<s>", "</s>", "<think>", "<only>"])
THEIRS = by_pieces(["▁", *LETTERS[:8], "ab", "bc", "cd", "▁ef", "gh"], ["<unk>", "<bos>", "<eos>", "<think>"])
ENDS = {"bos": 1, "eos": 2}


def document(text: str) -> tuple[list[int], list[str]]:
    """<s> prompt <think> the text <only> answer </s>, and the kind of each token."""
    parts = [("<s>", "control"), ("fg", "prompt"), ("<think>", "control"), (text, "derive"), ("<only>", "control"),
             ("cdab", "answer"), ("</s>", "control")]  # fmt: skip
    tokens, kinds = [], []
    for words, kind in parts:
        ids = OURS.encode(words, add_special_tokens=False).ids
        tokens += ids
        kinds += [kind] * len(ids)
    return tokens, kinds


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("store") / "tokens.arrow"
    with TokenStoreWriter(path, KINDS) as writer:
        for at, text in enumerate(TEXTS):
            tokens, kinds = document(text)
            writer.add(f"r{at}", "q", tokens, [KINDS.id(kind) for kind in kinds], np.zeros(len(tokens)))
    return TokenStore(path)


@pytest.fixture(scope="module")
def student():
    config = tiny_config(initializer_range=0.6)
    del config["vocab_size"]
    how = {"vocab_size": THEIRS.get_vocab_size(), "num_kinds": len(KINDS), "seed": 4}
    return build_student(StudentConfig(config=config), bos_id=None, eos_id=0, pad_id=0, **how).eval()


@pytest.fixture(scope="module")
def source(student):
    local = LocalModel(student, layout_for(student.model.config).make_row, 0, torch.device("cpu"))
    return OtherTokens(local, Translation(OURS, THEIRS, {"bos": 0, "eos": 1, "pad": None}, ENDS), None)


def test_both_vocabularies_know_their_bytes():
    assert token_bytes(OURS)[OURS.token_to_id("Ġe")] == b" e"
    theirs = token_bytes(THEIRS)
    assert theirs[THEIRS.token_to_id("▁ef")] == b" ef"
    assert theirs[THEIRS.token_to_id("<0x41>")] == b"A"


@pytest.fixture(scope="module")
def plain(student):
    """Ids of the model's own -> (n, V) float64 log-probabilities of what follows each, by transformers alone."""
    model = copy.deepcopy(student.model).double()
    model.config._attn_implementation = model.model.config._attn_implementation = "eager"

    def log_p(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return log_p


def test_a_token_has_the_chained_probability_of_its_bytes_and_no_other_has_any(store, plain, source):
    found = read_shard(source, store, range(len(store)), (BUILT_IN["nll"], *topk(6)), 1000)
    tokens, ids = store.tokens(0).tolist(), [1, *THEIRS.encode("fg", add_special_tokens=False).ids, 3]
    body = THEIRS.encode(TEXTS[0], add_special_tokens=False)
    assert [THEIRS.id_to_token(i) for i in body.ids] == ["ab", "cd", "▁ef", "gh", "▁", "ab"]
    begun = len(ids)
    ids += [*body.ids, *THEIRS.encode("<only>", add_special_tokens=False).ids]
    answer = len(ids)
    ids += [*THEIRS.encode("cdab", add_special_tokens=False).ids, 2]
    names = [OURS.id_to_token(token) for token in tokens]
    known = {i: found["nll"][i] for i in range(len(tokens)) if not np.isnan(found["nll"][i])}
    blank, end = names.index("Ġ"), len(tokens) - 1
    expected = {
        names.index("f"): (1, 1),
        names.index("g"): (2, 2),
        names.index("<think>"): (3, 3),
        names.index("abcd"): (begun, begun + 1),  # two of the model's tokens
        blank: (begun + 4, begun + 4),
        blank + 1: (begun + 5, begun + 5),
        end - 2: (answer, answer),
        end - 1: (answer + 1, answer + 1),
        end: (answer + 2, answer + 2),
    }
    assert names.index("Ġe") not in known, "it ends inside of ' ef'"
    assert names.index("<only>") not in known, "the model has no such symbol"
    log_p = plain(ids)
    for at, (first, last) in expected.items():
        nll = -sum(float(log_p[i - 1, ids[i]]) for i in range(first, last + 1))
        assert known[at] == pytest.approx(nll, rel=2e-3), names[at]
    both = {i for i in range(len(tokens)) if found["topk_ids"][i][0] >= 0}
    assert set(known) <= both
    assert names.index("Ġe") in both, "the model begins a token there"


def test_candidates_are_those_with_the_same_bytes_and_the_rest_is_left(store, plain, source):
    found = read_shard(source, store, range(1), topk(6, ("answer",)), 1000)
    at = next(i for i in range(len(store.tokens(0))) if KINDS.names[store.kinds(0)[i]] == "answer")
    ours, theirs = token_bytes(OURS), token_bytes(THEIRS)
    before = [1, *THEIRS.encode("fg", add_special_tokens=False).ids, 3]
    before += [*THEIRS.encode(TEXTS[0]).ids, *THEIRS.encode("<only>").ids]
    log_p = plain(before)[-1]
    best = log_p.topk(12)
    same = {held: i for i, held in ours.items() if i > 3} | {b"<think>": 2, b"<eos>": 1, b"<bos>": 0}
    twice = {i for i in theirs if THEIRS.id_to_token(i).startswith("<0x") and chr(theirs[i][0]) in LETTERS}
    rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    pairs = [(same.get(theirs[i], -1) if i not in twice else -1, p) for i, p in rows]
    expected = [(i, p) for i, p in pairs if i >= 0][:6]
    kept = found["topk_ids"][at] >= 0
    assert found["topk_ids"][at][kept].tolist() == [i for i, _ in expected]
    np.testing.assert_allclose(found["topk_logprobs"][at][kept], [p for _, p in expected], rtol=2e-3)
    assert np.exp(found["topk_logprobs"][at][kept].astype(float)).sum() < 1
    assert len(expected) < 12, "some of the model's tokens are none of ours"


def test_coverage_is_counted_by_kind_and_a_text_that_is_changed_is_not_covered(store, source):
    table = KINDS.mask(["control", "derive", "answer"]).astype(np.float32)
    found = coverage(source.translation, store, range(len(store)), table, topk=False)
    assert found["answer"] == (6, 6)
    assert found["control"] == (6, 9), "of <think>, <only> and </s> it does not know <only>"
    assert 0 < found["derive"][0] < found["derive"][1]
    lossy = copy.deepcopy(THEIRS)
    from tokenizers import normalizers

    lossy.normalizer = normalizers.Replace("a", "b")
    other = Translation(OURS, lossy, {"bos": 0, "eos": 1, "pad": None}, ENDS)
    assert coverage(other, store, range(1), table, topk=False)["derive"][0] == 0
