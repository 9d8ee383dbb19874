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


def group(kind: int) -> str:
    lineage = KINDS.lineages[KINDS.names[kind]]
    return "trace" if "trace" in lineage else lineage[0]


def test_a_text_cut_off_anywhere_is_the_beginning_of_its_document(run, records, tmp_path):
    """Up to the last token; of what stands between trace and answer, none is answer, and the trace's end is not known
    before it is there."""
    for tokenizer, config in layouts(run, tmp_path):
        layout = load_layout(config, tokenizer)
        record = records[0]
        whole = layout.encode([record], KINDS)[0].documents[""]
        begin = len(layout.prompt_ids(record.question))
        ids, wanted = whole.tokens[begin:].tolist(), [group(kind) for kind in whole.kinds[begin:]]
        answers = [at for at, name in enumerate(wanted) if name == "answer"]
        traces = [at for at, name in enumerate(wanted) if name == "trace"]
        assert answers
        for end in range(1, len(ids)):
            text = OwnText(record.question, ids[:end], layout.read(ids[:end]))
            (made,) = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)([text])
            found = [group(kind) for kind in made.kinds[begin:]]
            assert made.tokens[begin:].tolist() == ids[:end], "and nothing behind it"
            if end <= traces[-1] + 1 or end > answers[0]:
                assert found == wanted[:end], (config, end)
            else:
                assert found[: traces[-1] + 1] == wanted[: traces[-1] + 1]
                assert "answer" not in found


def test_the_last_token_of_a_text_that_was_cut_off_is_no_control(run, records, tmp_path):
    """Also if it is white space, or a part of a character."""
    (_, _), (own, form), (chat, template) = layouts(run, tmp_path)
    by_form, by_chat = load_layout(form, own), load_layout(template, chat)
    for said, last, cut in (
        ("<think>\nOne and one.\n\n", "trace", 0),
        ("<think>\nOne é", "trace", 1),
        ("<think>\nOne.\n</think>\n\n18 ", "answer", 0),
        ("<think>\nOne.\n</think>\n\né", "answer", 1),
        ("<think>\nOne.\n</think>\n\n", "control", 0),
        (f"One.{by_form.parts.closing}18 ", "answer", 0),
        (f"One.{by_form.parts.closing}18{by_form.parts.tail.removesuffix(by_form.parts.stop)}", "control", 0),
    ):
        layout, tokenizer = (by_chat, chat) if "<think>" in said else (by_form, own)
        ids = layout.tokens_of([said])[0].ids
        ids = ids[: len(ids) - cut]
        (made,) = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)([OwnText("How much?", ids, layout.read(ids))])
        found = [group(kind) for kind in made.kinds[len(layout.prompt_ids("How much?")) :]]
        assert found[-1] == last, (said, found)
        assert ("trace" in found) == ("One" in said)


def test_a_text_in_the_open_is_trace_and_answer_at_once_and_learnt_from_as_a_trace(run, records, tmp_path):
    """Nobody has marked what of it is answer: the readers find that in it, and rounds of traces learn it as a trace."""
    said = "7+1=8. So 8"
    for tokenizer, config in layouts(run, tmp_path):
        layout = load_layout(config, tokenizer)
        text = layout.tokenizer.encode([said]) if config == EncodeConfig() else layout.tokens_of([said])
        ids = [*text[0].ids, layout.stops[0]]
        reading = layout.read(ids)
        assert (reading.trace, reading.answer, reading.in_form) == (said, said, False), config
        (made,) = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)([OwnText("How much?", ids, reading)])
        found = [group(kind) for kind in made.kinds[len(layout.prompt_ids("How much?")) :]]
        assert found == [*["trace"] * (len(ids) - 1), "control"], (config, found)


def test_an_answer_of_a_letter_is_not_looked_for_in_the_words_before_it(run, records):
    tokenizer = run.stage("traces", "tokenizer")
    layout = load_layout(EncodeConfig(form="sentence"), tokenizer)
    prompt = layout.prompt_ids(records[0].question)
    lead = layout.parts.closing
    letter = next(sign for sign in lead if sign.isalpha() and sign.islower())
    ids = [*layout.tokens_of([f"{letter}{lead}{letter}{layout.parts.tail.removesuffix(layout.parts.stop)}"])[0].ids]
    ids.append(layout.stops[0])
    (made,) = OwnDocuments(layout, tokenizer, SEGMENT, KINDS)([OwnText(records[0].question, ids, layout.read(ids))])
    found = [group(kind) for kind in made.kinds[len(prompt) :]]
    said = [layout.backend.decode([token]) for at, token in enumerate(ids) if found[at] == "answer"]
    assert "".join(said).strip() == letter
    assert found.index("answer") > len(ids) // 2
