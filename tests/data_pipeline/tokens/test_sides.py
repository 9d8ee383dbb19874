"""Documents for encoder-decoders: the question on one side, trace and answer on the other, capacity for each."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.documents.document import PlainLayout
from tracestill.data_pipeline.documents.overlong import fit_document
from tracestill.data_pipeline.documents.two_task import TwoTaskLayout
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.tokens.layout import TwoTaskConfig
from tracestill.data_pipeline.tokens.render import load_tokenizer
from tracestill.data_pipeline.tokens.sides import EncoderDecoderLayout, encoder_lengths, widths
from tracestill.data_pipeline.tokens.store import TokenStore, TokenStoreWriter
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer

KINDS = Kinds()
TRACE = "Order 3,4. Let me add. 3 + 4 = 7.\nCheck 7 - 4 = 3."
PAD, PROMPT, ANSWER, CONTROL, DERIVE = (KINDS.id(k) for k in ("pad", "prompt", "answer", "control", "derive"))
TRACE_KINDS = np.array([KINDS.id(name) for name in KINDS.members("trace")], np.uint8)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(train_sentencepiece([f"What is {i} + 4? {TRACE}" for i in range(50)], 400), path)
    return load_tokenizer(path)


def record(question="What is 3 + 4?"):
    return Record("r", "q", question, "7", TRACE, "7", spans_of(rules("", TRACE)), 1.0, "solver", "", 1.0, 0)


@pytest.mark.parametrize("trace", ["keep", "drop"])
def test_a_document_by_hand(tokenizer, trace):
    layout = EncoderDecoderLayout(PlainLayout(tokenizer, trace), tokenizer)
    made = layout.encode([record()], KINDS)[0].documents[""]
    decoder = PlainLayout(tokenizer, trace).encode([record()], KINDS)[0].documents[""]
    assert [a.dtype for a in made] == ["int32", "uint8", "uint16"]
    read = int(np.flatnonzero(made.kinds != PAD)[0])
    decode = tokenizer.backend.decode
    assert decode(made.tokens[:read], skip_special_tokens=False) == "What is 3 + 4?</s>"
    written = decode(made.tokens[read:], skip_special_tokens=False)
    assert written.replace(" ", "") == f"<think>{TRACE if trace == 'keep' else ''}</think>7</s>".replace(" ", "")
    assert made.tokens[:read].tolist() == layout.prompt_ids("What is 3 + 4?")
    begun = layout.begun_ids(TRACE if trace == "keep" else "", closed=True)
    assert made.tokens[read:].tolist()[: len(begun)] == begun
    assert decode(made.tokens[read + len(begun) :]).strip() == "7"
    assert not made.kinds[:read].any()
    # the decoder's side is that of a decoder's document
    assert np.array_equal(made.tokens[read:], decoder.tokens[read:])
    assert np.array_equal(made.kinds[read:], decoder.kinds[read:])
    assert np.array_equal(made.steps[read:], decoder.steps[read:])
    assert not made.steps[:read].any()


def test_two_tasks_put_their_prefix_before_the_encoders_question(tokenizer):
    plain = TwoTaskLayout(
        PlainLayout(tokenizer, "keep"), PlainLayout(tokenizer, "drop"), TwoTaskConfig(answer_prefix="add ")
    )
    layout = EncoderDecoderLayout(plain, tokenizer)
    documents = layout.encode([record()], KINDS)[0].documents
    assert list(documents) == ["#trace", "#answer"]
    prompt = layout.prompt_ids("What is 3 + 4?")
    assert documents["#answer"].tokens[: len(prompt)].tolist() == prompt
    assert tokenizer.decode(prompt) == "add What is 3 + 4?"
    assert "'role'" in layout.chat_template
    assert layout.chat_template.endswith("{{ eos_token }}")


def test_a_record_without_a_question_leaves_its_end_symbol_to_the_encoder(tokenizer):
    """It is rejected later, by name."""
    layout = EncoderDecoderLayout(PlainLayout(tokenizer, "keep"), tokenizer)
    made = layout.encode([record(question="")], KINDS)[0].documents[""]
    assert made.tokens[:2].tolist() == [tokenizer.eos, tokenizer.think]
    assert made.kinds[:2].tolist() == [PAD, CONTROL]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 7), max_size=5)), min_size=1, max_size=12))
def test_encoder_lengths_are_those_counted_one_by_one(documents):
    kinds = [[PAD] * read + [CONTROL, *rest] for read, rest in documents]
    starts = np.cumsum([0, *map(len, kinds)])[:-1]
    found = encoder_lengths(np.concatenate(kinds).astype(np.uint8), starts)
    assert found.tolist() == [read for read, _ in documents]


def test_the_store_tells_both_sides(tmp_path):
    documents = [([0, 0, 0, 7, 3], 3), ([7, 1, 7], 0), ([0, 7, 3, 0, 3, 6], 1)]
    with TokenStoreWriter(tmp_path / "tokens.arrow", KINDS, batch_documents=2) as writer:
        for kinds, _ in documents:
            writer.add("r", "q", np.arange(len(kinds)), np.array(kinds), np.zeros(len(kinds)))
    store = TokenStore(tmp_path / "tokens.arrow", KINDS)
    assert store.encoder_lengths.tolist() == [read for _, read in documents]
    assert widths(store.lengths, store.encoder_lengths).tolist() == [3, 3, 5]


def fit(read, trace, capacity, policy):
    kinds = np.array([PAD] * read + [CONTROL] + [DERIVE] * trace + [CONTROL, ANSWER], np.uint8)
    return fit_document("record 7", np.arange(len(kinds)), kinds, np.arange(len(kinds)), capacity, policy, TRACE_KINDS)


@pytest.mark.parametrize("policy", ["error", "drop", "trim_trace"])
def test_each_side_may_fill_the_capacity(policy):
    assert fit(10, 7, 10, policy).outcome == "kept"


def test_a_long_decoder_side_follows_the_policy():
    assert fit(10, 8, 10, "drop").outcome == "dropped"
    assert len(fit(10, 8, 10, "drop").lost) == 21
    with pytest.raises(InputError, match=r"record 7, decoder: 11 tokens exceed plan.capacity 10; raise it"):
        fit(10, 8, 10, "error")
    trimmed = fit(10, 12, 10, "trim_trace")
    assert trimmed.outcome == "trimmed"
    assert trimmed.tokens.tolist() == [*range(10), 10, 11, 12, 13, 19, 20, 21, 22, 23, 24]
    assert trimmed.steps.tolist() == trimmed.tokens.tolist()
    assert trimmed.kinds.tolist() == [PAD] * 10 + [CONTROL] + [DERIVE] * 3 + [PAD] + [DERIVE] * 3 + [CONTROL, ANSWER]
    assert trimmed.cuts.tolist() == [14]
    assert trimmed.lost.tolist() == [DERIVE] * 5
    assert encoder_lengths(trimmed.kinds, np.array([0])).tolist() == [10]


@pytest.mark.parametrize("policy", ["error", "trim_trace"])
def test_a_question_that_is_too_long_cannot_be_trimmed(policy):
    with pytest.raises(InputError, match=r"record 7: 11 tokens for the encoder exceed plan.capacity 10 alone"):
        fit(11, 2, 10, policy)
    assert fit(11, 2, 10, "drop").outcome == "dropped"
    assert len(fit(11, 2, 10, "drop").lost) == 16
