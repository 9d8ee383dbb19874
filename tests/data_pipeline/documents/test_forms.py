"""Forms without think tags: what is written, that it is read back, and what is refused."""

from __future__ import annotations

from itertools import groupby

import chat_templates as made
import pytest
from pydantic import ValidationError

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.documents.encode import EncodeConfig, load_layout
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.tokens.control_symbols import add_control_symbols
from tracestill.data_pipeline.tokens.layout import LayoutConfig

KINDS = Kinds()
QUESTION, TRACE = "How much is 3 + 4?", "Let me add.\n3 + 4 = 7.\n\nCheck: 7 - 4 = 3."
FORMS = {  # as it is written around trace and answer
    "sentence": ("", "\nThe answer is ", "."),
    "hashes": ("", "\n#### ", ""),
    "boxed": ("", "\n\\boxed{", "}"),
    "Steps: {trace} => {answer}!": ("Steps: ", " => ", "!"),
    "{trace}\n${answer}$": ("", "\n$", "$"),  # the ending holds the mark
}
OWN_TAGS = made.THINKING.replace("<think>", "[THINK]").replace("</think>", "[/THINK]")


def record(answer="7"):
    return Record("r", "q", QUESTION, "7", TRACE, answer, spans_of(rules("", TRACE)), 1.0, "solver", "", 1.0, 0)


def stretches(made_of, encoded):
    """Kind and text of each stretch of tokens of one kind."""
    document = encoded.documents[""]
    rows = groupby(zip(document.kinds, document.tokens, strict=True), key=lambda row: row[0])
    return [
        (KINDS.names[kind], made_of.backend.decode([int(t) for _, t in row], skip_special_tokens=False))
        for kind, row in rows
    ]


def layout(directory, form, **config):
    made.save(directory, config.pop("source", made.CHATML), think=False)
    return load_layout(LayoutConfig(form=form, **config), directory)


@pytest.mark.parametrize("template", ["chat", "plain"])
@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_is_read_back(tmp_path, form, template):
    made_of = layout(tmp_path, form, template=template)
    opening, closing, ending = FORMS[form]
    encoded = made_of.encode([record()], KINDS)[0]
    document = encoded.documents[""]
    prompt = made_of.prompt_ids(QUESTION)
    assert document.tokens[: len(prompt)].tolist() == prompt
    text = made_of.backend.decode(document.tokens.tolist(), skip_special_tokens=False)
    stop = "<|im_end|>" if template == "chat" else "<|end|>"
    written = text[len(made_of.backend.decode(prompt, skip_special_tokens=False)) :]
    assert written == f"{opening}{TRACE}{closing}7{ending}{stop}"
    for begun, text in (
        (made_of.begun_ids(TRACE[:12], closed=False), opening + TRACE[:12]),
        (made_of.begun_ids(TRACE, closed=True), opening + TRACE + closing.rstrip(" ")),
    ):
        assert document.tokens[len(prompt) :][: len(begun)].tolist() == begun
        assert made_of.backend.decode(begun, skip_special_tokens=False).rstrip(" ") == text
    word = made_of.encode([record("so")], KINDS)[0].documents[""].tokens[len(prompt) :]  # takes the blank before it
    begun = made_of.begun_ids(TRACE, closed=True)
    assert word[: len(begun)].tolist() == begun
    at_once = made_of.backend.decode(made_of.begun_ids("", closed=True), skip_special_tokens=False)
    assert at_once.rstrip(" ") == closing.strip()
    kinds = [kind for kind, _ in stretches(made_of, encoded)]
    assert kinds == ["prompt", *["control"] * bool(opening), "plan", "derive", "check", "control", "answer", "control"]
    read = made_of.read(document.tokens[len(prompt) :].tolist())
    assert (read.trace, read.answer, read.finished, read.in_form) == (TRACE, "7", True, True)


def test_the_last_mark_counts_and_what_has_none_is_trace_and_answer_at_once(tmp_path):
    made_of = layout(tmp_path, "hashes", template="chat")
    ids = made_of.backend.encode("As #### 3 says.\n#### 7<|im_end|>", add_special_tokens=False).ids
    read = made_of.read(ids)
    assert (read.trace, read.answer, read.in_form) == ("As #### 3 says.", "7", True)
    ids = made_of.backend.encode("So the sum is 12.<|im_end|>", add_special_tokens=False).ids
    read = made_of.read(ids)
    assert (read.trace, read.answer, read.finished, read.in_form) == (*["So the sum is 12."] * 2, True, False)
    assert made_of.read(ids[:-1]).answer is None  # cut off
    refused = made_of.encode([record(answer="#### 7")], KINDS)[0].refused
    assert refused == ("control_in_text", "the answer holds ####")


def test_a_mark_that_also_ends_the_form_and_an_answer_that_runs_into_it(tmp_path):
    made_of = layout(tmp_path / "a", "{trace}\n${answer}$", template="chat")
    for said in ("3 + 4:\n$7$", "3 + 4:\n$7$ \n", "3 + 4:\n$7"):
        assert made_of.parted(said) == ("3 + 4:", "7", True)
    made_of = layout(tmp_path / "b", "{trace}##{answer}", template="chat")
    assert made_of.encode([record("7#")], KINDS)[0].refused is None
    refused = made_of.encode([record("#7")], KINDS)[0].refused
    assert refused == ("control_in_text", "with the marks of encode.form the answer is read as '7'")


def test_a_form_that_holds_what_ends_the_turn_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"encode.form: holds <\|im_end\|>, at which"):
        layout(tmp_path, "{trace}<|im_end|>{answer}", template="chat")


def test_without_its_trace_a_record_is_the_answer_in_its_form(tmp_path):
    made_of = layout(tmp_path, "sentence", template="chat", trace="drop")
    made_tokens = made_of.encode([record()], KINDS)[0].documents[""].tokens.tolist()
    written = made_tokens[len(made_of.prompt_ids(QUESTION)) :]
    assert made_of.backend.decode(written, skip_special_tokens=False) == "The answer is 7.<|im_end|>"
    read = made_of.read(written)
    assert (read.trace, read.answer, read.in_form) == ("", "7", True)


def test_a_generated_turn_writes_the_form_and_thinking_off_takes_it(tmp_path):
    plain = layout(tmp_path, "hashes", template="chat")
    generated = layout(tmp_path, "hashes", template="chat", turn="generated")
    documents = [each.encode([record()], KINDS)[0].documents[""].tokens.tolist() for each in (plain, generated)]
    assert documents[0] == documents[1]
    off = {"variables": {"enable_thinking": False}}
    quiet = layout(tmp_path / "off", "hashes", template="chat", turn="generated", source=made.THINKING, **off)
    text = quiet.backend.decode(quiet.encode([record()], KINDS)[0].documents[""].tokens.tolist())
    assert f"<think>\n\n</think>\n\n{TRACE}\n#### 7" in text


def test_the_templates_own_tags_are_used(tmp_path):
    made_of = layout(tmp_path, "think", template="chat", source=OWN_TAGS)
    encoded = made_of.encode([record()], KINDS)[0]
    assert stretches(made_of, encoded)[1] == ("control", "[THINK]\n")
    ids = encoded.documents[""].tokens.tolist()[len(made_of.prompt_ids(QUESTION)) :]
    read = made_of.read(ids)
    assert (read.trace, read.answer, read.in_form) == (TRACE, "7", True)


def test_a_template_that_opens_a_think_block_takes_no_other_form(tmp_path):
    with pytest.raises(InputError, match=r"opens a think block in the generation prompt, which encode.form would"):
        layout(tmp_path, "hashes", template="chat", source=made.PREFILLING, turn="generated")


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("hash", "'hash' is no form; expected think, sentence, hashes, boxed, or a text that holds"),
        ("{answer} since {trace}", "is no form"),
        ("{trace}\n\n{answer}", "write a mark between"),
    ],
)
def test_forms_that_cannot_be_read_back_are_refused(form, message):
    with pytest.raises(ValidationError, match=message):
        EncodeConfig(form=form)


def test_two_tasks_and_encoder_decoders_keep_think_tags():
    with pytest.raises(ValidationError, match=r"encode.form: encode.two_task writes think tags"):
        EncodeConfig(form="hashes", two_task={})
    with pytest.raises(ValidationError, match=r"encode.form: an encoder-decoder writes think tags"):
        EncodeConfig(form="hashes", template="encoder_decoder")


def test_no_symbol_is_added_that_the_form_does_not_need(tmp_path):
    made.save(tmp_path, made.CHATML, think=False)
    before = (tmp_path / "tokenizer.json").read_text()
    add_control_symbols(tmp_path, tags=False)
    assert "<think>" not in (tmp_path / "tokenizer.json").read_text()
    (tmp_path / "tokenizer.json").write_text(before)
    add_control_symbols(tmp_path)
    assert "<think>" in (tmp_path / "tokenizer.json").read_text()
