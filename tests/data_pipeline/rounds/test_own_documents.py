"""Documents of texts that a student wrote: its very tokens, and kinds as encoding would give them."""

from __future__ import annotations

from pathlib import Path

import chat_templates
import pytest
from fake_run import mini_recipe, run_data_stages

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import RECORD_SCHEMA, read_rows, record_from_row, with_spans
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout
from tracestill.data_pipeline.rounds.own_documents import OwnDocuments, OwnText
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter
from tracestill.trainer.recipe.run_directory import RunDirectory

KINDS = Kinds()
SEGMENT = SegmentConfig()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    made = RunDirectory.create(tmp_path_factory.mktemp("data") / "run", mini_recipe(arms={}))
    run_data_stages(made)
    return made


@pytest.fixture(scope="module")
def records(run):
    rows = read_rows(run.stage("traces", "select") / "records.parquet", RECORD_SCHEMA)
    return Segmenter(SEGMENT).all([with_spans(record_from_row(row), ()) for row in rows])


def layouts(run: RunDirectory, tmp_path: Path):
    own = run.stage("traces", "tokenizer")
    yield own, EncodeConfig()
    yield own, EncodeConfig(form="sentence")
    chat = chat_templates.save(tmp_path / "chat", chat_templates.THINKING)
    yield chat, EncodeConfig(template="chat", tokenizer={"path": chat})


def test_a_text_in_the_layouts_form_is_the_document_that_encoding_makes(run, records, tmp_path):
    for tokenizer, config in layouts(run, tmp_path):
        layout = load_layout(config, tokenizer)
        encoded = [found.documents[""] for found in layout.encode(records, KINDS)]
        begins = [len(layout.prompt_ids(record.question)) for record in records]
        ids = [document.tokens[begin:].tolist() for document, begin in zip(encoded, begins, strict=True)]
        texts = [OwnText(record.question, own, layout.read(own)) for record, own in zip(records, ids, strict=True)]
        for made, wanted in zip(OwnDocuments(layout, tokenizer, SEGMENT, KINDS)(texts), encoded, strict=True):
            assert made.tokens.tolist() == wanted.tokens.tolist()
            assert made.kinds[1:].tolist() == wanted.kinds[1:].tolist(), config  # the first token is no target
            assert made.steps.tolist() == wanted.steps.tolist()


def test_tokens_stay_as_they_were_drawn_however_the_text_would_be_cut(run, records):
    tokenizer = run.stage("traces", "tokenizer")
    layout = load_layout(EncodeConfig(), tokenizer)
    of = layout.tokenizer
    text = "them 9+4=13."
    letters = [of.backend.token_to_id(letter.replace(" ", "\u2581")) for letter in text]
    ids = [of.think, *letters, of.end_think, of.backend.token_to_id("3"), of.eos]
    assert len(of.backend.encode(text, add_special_tokens=False).ids) < len(letters)
    (made,) = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)([OwnText(records[0].question, ids, layout.read(ids))])
    prompt = layout.prompt_ids(records[0].question)
    assert made.tokens.tolist() == [*prompt, *ids]
    names = [KINDS.names[kind] for kind in made.kinds[len(prompt) :]]
    assert [names[0], *names[-3:]] == ["control", "control", "answer", "control"]
    assert {KINDS.lineages[name][-1] for name in names[1:-3]} <= {"trace", "derive", "plan", "prose", "check"}
    assert [names[1 + text.index(sign)] for sign in "+3"] == ["expression", "result"]


def test_what_was_cut_off_is_trace_without_an_end(run, records):
    tokenizer = run.stage("traces", "tokenizer")
    layout = load_layout(EncodeConfig(), tokenizer)
    whole = layout.encode(records[:1], KINDS)[0].documents[""].tokens.tolist()
    prompt = layout.prompt_ids(records[0].question)
    ids = whole[len(prompt) : len(prompt) + 5]
    empty = [OwnText(records[0].question, own, layout.read(own)) for own in (ids, [layout.tokenizer.eos], [])]
    made, ended, nothing = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)(empty)
    assert made.tokens.tolist() == whole[: len(prompt) + 5]
    assert layout.tokenizer.eos not in made.tokens
    assert [KINDS.names[kind] for kind in ended.kinds[len(prompt) :]] == ["control"]
    assert len(nothing.tokens) == len(prompt)
