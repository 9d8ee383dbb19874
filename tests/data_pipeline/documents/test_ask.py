"""Asking any model: its prompt is what transformers makes of its tokenizer; its answer is found in what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import chat_templates as made
import pytest
from transformers import AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.documents.ask import AskLayout

QUESTIONS = ["How much is 3 + 4?", "  two\n\nlines  ", "é漢😀 {{ x }}", "<|im_end|> <think>"]


@pytest.mark.parametrize("system", [None, "Be brief."])
@pytest.mark.parametrize("name", ["CHATML", "THINKING", "PREFILLING", "HEADERS", "DROPPING", "TRIMMING"])
def test_a_chat_model_is_asked_by_its_template(tmp_path: Path, name: str, system: str | None) -> None:
    """Whatever the template does with traces: one that drops them cannot be trained on, but it can be asked."""
    made.save(tmp_path, getattr(made, name))
    layout, auto = (
        AskLayout(tmp_path, system=system, variables={"no_such_variable": 1}),
        AutoTokenizer.from_pretrained(tmp_path),
    )
    before = [{"role": "system", "content": system}] if system else []
    for question in QUESTIONS:
        messages = [*before, {"role": "user", "content": question}]
        assert auto.apply_chat_template(messages, add_generation_prompt=True).input_ids == layout.prompt_ids(question)
    assert layout.stops[0] == auto.eos_token_id
    assert layout.pad == auto.pad_token_id


def test_variables_reach_a_template_that_reads_them(tmp_path: Path) -> None:
    made.save(tmp_path, made.THINKING)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    asked = [{"role": "user", "content": "1 + 1?"}]
    off = auto.apply_chat_template(asked, add_generation_prompt=True, enable_thinking=False).input_ids
    assert AskLayout(tmp_path, variables={"enable_thinking": False}).prompt_ids("1 + 1?") == off
    assert AskLayout(tmp_path).prompt_ids("1 + 1?") != off


@pytest.mark.parametrize(
    ("name", "think", "open_", "closed", "at_once"),
    [
        ("THINKING", True, "<think>\n2 + 2", "<think>\n2 + 2\n</think>\n\n", "<think>\n\n</think>\n\n"),
        ("PREFILLING", True, "2 + 2", "2 + 2\n</think>\n\n", "\n</think>\n\n"),
        ("CHATML", False, "2 + 2", "2 + 2\nThe answer is ", "The answer is "),
    ],
)
def test_a_trace_begins_and_ends_as_the_model_writes_it(tmp_path, name, think, open_, closed, at_once) -> None:
    made.save(tmp_path, getattr(made, name), think=think)
    layout = AskLayout(tmp_path)
    for trace, is_closed, text in (("2 + 2", False, open_), ("2 + 2", True, closed), ("", True, at_once)):
        begun = layout.begun_ids(trace, closed=is_closed)
        assert layout.backend.decode(begun, skip_special_tokens=False).rstrip(" ") == text.rstrip(" ")
    assert layout.begun_ids("", closed=False) == []
    said = layout.backend.encode("4" if think else " 4").ids  # a blank that joins what follows is the model's to write
    read = layout.read([*layout.begun_ids("2 + 2", closed=True), *said, layout.stops[0]])
    assert read.answer.endswith("4")
    assert (read.trace, read.in_form) == (("2 + 2", True) if think else ("2 + 2\nThe answer is 4", False))


def test_another_system_prompt_takes_the_place_of_the_recipes(tmp_path: Path) -> None:
    made.save(tmp_path, made.CHATML)
    layout = AskLayout(tmp_path, system="Be brief.")
    assert layout.takes_system
    assert layout.prompt_ids("1?", "Be long.") == AskLayout(tmp_path, system="Be long.").prompt_ids("1?")


@pytest.mark.parametrize(
    "of_system",
    ["", "{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}"],
    ids=["left out", "refused"],
)
def test_a_template_that_writes_no_system_prompt_takes_none(tmp_path: Path, of_system: str) -> None:
    users = "{% if m.role == 'user' %}{{ m.content }}{% endif %}"
    made.save(tmp_path, f"{{% for m in messages %}}{of_system}{users}{{% endfor %}}")
    assert not AskLayout(tmp_path).takes_system


def test_a_base_model_is_given_the_question_as_its_tokenizer_begins_a_text(tmp_path: Path) -> None:
    made.save(tmp_path, made.CHATML)
    for path in (tmp_path / "chat_template.jinja", tmp_path / "tokenizer_config.json"):
        config = json.loads(path.read_text()) if path.suffix == ".json" else None
        if config is None:
            path.unlink()
        else:
            path.write_text(json.dumps({k: v for k, v in config.items() if k != "chat_template"}))
    layout, auto = AskLayout(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert layout.prompt_ids(QUESTIONS[0]) == auto(QUESTIONS[0]).input_ids
    said = layout.backend.encode("It is 3 + 4 = 7.").ids
    assert layout.read([*said, layout.stops[0]])[2:4] == ("It is 3 + 4 = 7.", True)
    assert layout.read(said)[2:4] == (None, False), "never ended: no answer"
    assert AskLayout(tmp_path, ends=[5]).read([*said[:2], 5]).finished, "a model's own config may end it too"


@pytest.mark.parametrize(
    ("written", "trace", "answer", "in_form"),
    [
        ("<think>\n3 + 4 = 7\n</think>\n\n7", "3 + 4 = 7", "7", True),
        ("[THINK]3 + 4 = 7[/THINK]7", "3 + 4 = 7", "7", True),
        ("◁think▷3 + 4", "3 + 4", None, False),
        ("A <think> tag in words", "A <think> tag in words", "A <think> tag in words", False),
        ("<think>\n3 + 4 = 7", "3 + 4 = 7", None, False),
        ("So it is 7.", "So it is 7.", "So it is 7.", False),
        ("", "", "", False),
    ],
)
def test_what_was_written_is_read(tmp_path: Path, written: str, trace: str, answer: str | None, in_form: bool) -> None:
    made.save(tmp_path, made.CHATML)
    layout = AskLayout(tmp_path)
    ids = layout.backend.encode(written, add_special_tokens=False).ids
    found = layout.read([*ids, layout.stops[0], layout.pad])
    assert (found.trace, found.answer, found.in_form, found.finished) == (trace, answer, in_form, True)
    cut = layout.read(ids)
    assert (cut.answer, cut.in_form, cut.finished) == (None, False, False)


def test_a_trace_that_the_prompt_opens_must_be_closed(tmp_path: Path) -> None:
    made.save(tmp_path, made.PREFILLING)
    layout = AskLayout(tmp_path)
    assert layout.prefilled
    ids = layout.backend.encode("3 + 4 = 7 so 7", add_special_tokens=False).ids
    assert layout.read([*ids, layout.stops[0]]).answer is None


def test_a_date_in_the_prompt_does_not_depend_on_the_day(tmp_path: Path) -> None:
    made.save(tmp_path, "{{ strftime_now('%d %b %Y') }}" + made.CHATML)
    assert AskLayout(tmp_path).asked("?").startswith("26 Jul 2024")


def test_without_an_end_it_is_refused(tmp_path: Path) -> None:
    made.save(tmp_path, made.CHATML)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "eos_token": None}))
    with pytest.raises(InputError, match="nothing tells where this model stops"):
        AskLayout(tmp_path)
