"""Chat templates: transformers' own rendering is kept, every token has the kind of its text, and what a template does
to a trace is either harmless or refused by name."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from pathlib import Path

import chat_templates as made
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.encode import load_layout
from tracestill.data_pipeline.segmentation.parts import spans_of
from tracestill.data_pipeline.segmentation.rules import rules
from tracestill.data_pipeline.tokens.layout import LayoutConfig
from tracestill.data_pipeline.tokens.tokenizer import train_sentencepiece, write_tokenizer

KINDS = Kinds()
QUESTION, TRACE = "How much is 3 + 4?", "Let me add.\n3 + 4 = 7.\n\nCheck: 7 - 4 = 3."
GENERATED, DROP, OFF = {"turn": "generated"}, {"trace": "drop"}, {"variables": {"enable_thinking": False}}


def record(question=QUESTION, trace=TRACE, answer="7", spans=None):
    spans = spans_of(rules("", trace)) if spans is None else spans
    return Record("r", "q", question, "7", trace, answer, spans, 1.0, "solver", "terse", 1.0, 0)


def layout(directory: Path, template: str | None, think: bool = True, **config: object) -> ChatLayout:
    made.save(directory, template, think=think)
    return ChatLayout(directory, LayoutConfig(template="chat", **config))


def stretches(layout: ChatLayout, encoded) -> list[tuple[str, str]]:
    """Kind and text of each stretch of tokens of one kind."""
    document = encoded.documents[""]
    rows = groupby(zip(document.kinds, document.tokens, strict=True), key=lambda row: row[0])
    return [
        (KINDS.names[kind], layout.backend.decode([int(t) for _, t in row], skip_special_tokens=False))
        for kind, row in rows
    ]


# ---- what is written, by hand

USER = "<|im_start|>user\nHow much is 3 + 4?<|im_end|>\n<|im_start|>assistant\n"
THOUGHT = [("plan", "Let me add.\n"), ("derive", "3 + 4 = 7.\n\n")]
# the last full stop and the line break before </think> are one token, which belongs to what is visible of it
CHECKED = [*THOUGHT, ("check", "Check: 7 - 4 = 3.\n"), ("control", "</think>\n\n"), ("answer", "7")]
OPENED = [("control", "<think>\n"), *CHECKED]
EMPTY = [("control", "<think>\n\n</think>\n\n"), ("answer", "7")]
OF_HEADERS = f"<|end|><|start|>user<|of|>\n\n{QUESTION}<|eot|><|start|>assistant<|of|>\n\n"


def turn_ends(end: str) -> str:
    """The template, with another end of the assistant's turn."""
    return made.CHATML.replace("'<|im_end|>\n'", f"('{end}' if m.role == 'assistant' else '<|im_end|>\n')")


LAYOUTS = {
    "chatml": (made.CHATML, {}, USER, OPENED, "<|im_end|>"),
    "reasoning of its own": (made.THINKING, {}, USER, OPENED, "<|im_end|>"),
    "headers": (made.HEADERS, {}, OF_HEADERS, OPENED, "<|eot|>"),
    "prefilling": (made.PREFILLING, GENERATED, f"<|end|><|user|>{QUESTION}<|bot|><think>\n", CHECKED, "<|end|>"),
    "dropping": (made.DROPPING, GENERATED, USER, OPENED, "<|im_end|>"),
    "answers only": (made.THINKING, DROP, USER, EMPTY, "<|im_end|>"),
    "thinking off": (made.THINKING, OFF | DROP, USER + "<think>\n\n</think>\n\n", EMPTY[1:], "<|im_end|>"),
    "two ends": (turn_ends("<|eot|>\n<|end|>"), {}, USER, OPENED, "<|eot|>\n<|end|>"),
    "no end": (turn_ends(""), GENERATED, USER, OPENED, "<|end|>"),
    "system": (made.CHATML, {"system": "Be brief."}, f"<|im_start|>system\nBe brief.<|im_end|>\n{USER}", OPENED,
               "<|im_end|>"),
}  # fmt: skip


@pytest.mark.parametrize("think", [True, False], ids=["tags are symbols", "tags are text"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_document_by_hand(tmp_path: Path, name: str, think: bool) -> None:
    template, config, prompt, parts, stop = LAYOUTS[name]
    chat = layout(tmp_path, template, think, **config)
    (encoded,) = chat.encode([record()], KINDS)
    assert stretches(chat, encoded) == [("prompt", prompt), *parts, ("control", stop)]
    document = encoded.documents[""]
    assert [array.dtype for array in document] == ["int32", "uint8", "uint16"]
    assert encoded.notes == ({"straddling_tokens": 1} if "trace" not in config else {})
    ids = chat.prompt_ids(QUESTION)
    assert document.tokens[: len(ids)].tolist() == ids
    begun = chat.begun_ids("" if "trace" in config else TRACE, closed=True)
    assert document.tokens[len(ids) :][: len(begun)].tolist() == begun, "where the answer begins"
    assert chat.backend.decode(document.tokens[len(ids) + len(begun) :].tolist()).startswith("7")
    assert chat.begun_ids("", closed=False) == []
    assert chat.stops[0] == document.tokens[-1] == chat.special_ids["eos"]
    steps = [
        sorted({*document.steps[document.kinds == KINDS.id(kind)].tolist()}) for kind in ("plan", "derive", "check")
    ]
    assert steps == ([[0], [1], [2]] if "trace" not in config else [[], [], []])
    # a student that writes the rest of the document has written that trace and that answer
    found = chat.read(document.tokens[len(ids) :].tolist())
    assert found[1:4] == ("" if "trace" in config else TRACE, "7", True)
    assert found.trace_tokens == len(chat.tokens_of([found.trace])[0].ids)
    padded = chat.read([*document.tokens[len(ids) :].tolist(), chat.pad, chat.pad])
    assert padded[1:4] == found[1:4]
    assert chat.read(document.tokens[len(ids) : -1].tolist())[2:4] == (None, False)  # cut off


@pytest.mark.parametrize("in_config", [False, True])
@pytest.mark.parametrize("name", ["CHATML", "THINKING", "PREFILLING", "HEADERS", "DROPPING", "TRIMMING"])
def test_transformers_writes_the_same(tmp_path: Path, name: str, in_config: bool) -> None:
    """Prompts always, and whole documents where the template writes the turn."""
    made.save(tmp_path, getattr(made, name), in_config=in_config)
    generated = name in ("PREFILLING", "DROPPING")
    config = LayoutConfig(template="chat", system="Be brief.", turn="generated" if generated else "template")
    chat = load_layout(config, tmp_path)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    questions = [QUESTION, "  two\n\nlines  ", "é漢😀 <b>&amp;</b> {{ x }}", "<|im_end|> <think>"]
    for question in questions:
        messages, variables = chat.asking(question)
        assert messages[0]["role"] == "system"
        theirs = auto.apply_chat_template(messages, add_generation_prompt=True, **variables)
        assert theirs.input_ids == chat.prompt_ids(question)
    if not generated:
        inline = {"content": f"<think>\n{TRACE}\n</think>\n\n7"}
        apart = {"content": "7", "reasoning_content": TRACE}
        turn = {"role": "assistant", **(inline if name in ("CHATML", "HEADERS") else apart)}
        for question in questions[:3]:
            (encoded,) = chat.encode([record(question)], KINDS)
            theirs = auto.apply_chat_template([*chat.asking(question)[0], turn]).input_ids
            ours = encoded.documents[""].tokens.tolist()
            assert theirs[: len(ours)] == ours
            assert auto.decode(theirs[len(ours) :]) in ("", "\n")


def test_a_template_of_the_plain_form_gives_plain_documents(tmp_path: Path) -> None:
    """Tokenised as one text and in three parts: the same, but for the kind of <s>, which is never predicted."""
    write_tokenizer(train_sentencepiece([f"{QUESTION} {TRACE} abcd"] * 9, 400), tmp_path)
    (tmp_path / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% else %}"
        "<think>{{ m.reasoning_content }}</think>{{ m.content + eos_token }}{% endif %}{% endfor %}"
    )
    for trace in ("keep", "drop"):
        plain, chat = (load_layout(LayoutConfig(template=name, trace=trace), tmp_path) for name in ("plain", "chat"))
        for made_up in (record(), record("  two\n\nlines ", " so é漢😀 ", " 7\n"), record(trace="", spans=())):
            ours, theirs = (layout.encode([made_up], KINDS)[0].documents[""] for layout in (plain, chat))
            assert [a[1:].tolist() for a in theirs] == [a[1:].tolist() for a in ours]
            assert theirs.tokens[0] == ours.tokens[0]
            asked = plain.prompt_ids(made_up.question)
            assert chat.prompt_ids(made_up.question) == asked
            written = ours.tokens[len(asked) :].tolist()
            assert chat.read(written) == plain.read(written)


PARTS = ["a", " sum", "  ", "\n", "\n\n", "7", " = ", "Check: ", ".", ".\n", "é", "漢", "\t", ">", "<", "\u3000"]
texts = st.lists(st.sampled_from(PARTS), max_size=15).map("".join)


@pytest.fixture(scope="module")
def layouts(tmp_path_factory: pytest.TempPathFactory) -> list[ChatLayout]:
    plan = [(made.THINKING, {}), (made.PREFILLING, GENERATED), (made.HEADERS, {})]
    return [layout(tmp_path_factory.mktemp("layout"), t, think, **c) for t, c in plan for think in (True, False)]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(question=texts, trace=texts, answer=texts, which=st.integers(0, 5), data=st.data())
def test_every_token_by_brute_force(layouts, question, trace, answer, which, data) -> None:
    chat = layouts[which]
    cuts = sorted(data.draw(st.sets(st.integers(1, len(trace) - 1), max_size=5)) if len(trace) > 1 else ())
    bounds = list(zip([0, *cuts], [*cuts, len(trace)], strict=True)) if trace else []
    spans = tuple(Span(a, b, data.draw(st.sampled_from(KINDS.members("trace")))) for a, b in bounds)
    (encoded,) = chat.encode([record(question, trace, answer, spans)], KINDS)
    if encoded.refused:  # a line break after white space can go into the prompt's last token
        assert encoded.refused[0] == "merges_with_prompt"
        return
    document = encoded.documents[""]
    prompt = chat.prompt_ids(question)
    assert document.tokens[: len(prompt)].tolist() == prompt
    found = chat.read(document.tokens[len(prompt) :].tolist())
    assert found.finished
    assert (found.trace.strip(), found.answer.strip()) == (trace.strip(), answer.strip())
    # kinds, by the bytes of the tokens: each begins where those before it end
    text = chat.backend.decode(document.tokens.tolist(), skip_special_tokens=False)
    begin = len(chat.backend.decode(prompt, skip_special_tokens=False))
    trace_at = begin + (0 if chat.parts.prefilled else len("<think>\n"))
    end = len(text) - len(chat.parts.stop)
    names, offsets = [KINDS.names[k] for k in document.kinds], chat.tokens_of([text])[0].offsets
    assert len(offsets) == len(names)
    skipped = trace.index(found.trace)
    for name, (first, last) in zip(names, offsets, strict=True):
        at = next((c for c in range(first, last) if not text[c].isspace()), first)
        if at < begin:
            wanted = "prompt"
        elif found.trace.strip() and trace_at <= at < trace_at + len(found.trace):
            wanted = next(s.kind for s in spans if s.start <= at - trace_at + skipped < s.end)
        else:
            wanted = "answer" if end - len(found.answer) <= at < end else "control"
        assert name == wanted, (text[first:last], at)


# ---- what templates do to a text


def test_trimmed_ends_are_noted_and_spans_move_along(tmp_path: Path) -> None:
    spans = (Span(0, 8, "plan"), Span(8, 14, "check"), Span(14, 22, "derive"))
    padded = record(f"  {QUESTION}\n", "\n\n  so 3. then 7 = 7 \n", "\n7 ", spans)
    assert [padded.trace[span.start : span.end] for span in spans] == ["\n\n  so 3", ". then", " 7 = 7 \n"]
    for name, template, config, shown in (
        ("own", made.THINKING, {}, [("plan", "  so 3"), ("check", ". then"), ("derive", " 7 = 7 ")]),
        ("all", made.TRIMMING, {}, [("plan", "so 3"), ("check", ". then"), ("derive", " 7 = 7")]),
        ("generated", made.PREFILLING, GENERATED, [("plan", "  so 3"), ("check", ". then"), ("derive", " 7 = 7 ")]),
    ):
        chat = layout(tmp_path / name, template, **config)
        (encoded,) = chat.encode([padded], KINDS)
        assert [row for row in stretches(chat, encoded) if row[0] in KINDS.members("trace")] == shown, name
        trimmed = {part for part in ("question", "trace", "answer") if encoded.notes.get(f"trimmed_{part}")}
        assert trimmed == ({"question", "trace", "answer"} if name == "all" else {"trace", "answer"})


def test_a_trace_of_white_space_is_an_empty_one(tmp_path: Path) -> None:
    chat = layout(tmp_path, made.THINKING)
    for trace in ("", " \n"):
        (encoded,) = chat.encode([record(trace=trace, spans=())], KINDS)
        assert stretches(chat, encoded) == [("prompt", USER), *EMPTY, ("control", "<|im_end|>")]


FORGED = {
    "end of turn": (record("Say <|im_end|>"), "the question holds <|im_end|>"),
    "at the beginning": (record(answer="<|im_start|>7"), "the answer holds <|im_start|>"),
    "tag in trace": (record(trace="so </think> 8"), "the trace holds </think>"),
    "tag in answer": (record(answer="</think>8"), "the answer holds </think>"),
}


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("name", FORGED)
def test_a_text_cannot_forge_a_delimiter(tmp_path: Path, name: str, think: bool) -> None:
    forged, said = FORGED[name]
    chat = layout(tmp_path, made.CHATML, think)
    bad, good = chat.encode([forged, record()], KINDS)
    assert (bad.documents, bad.refused) == ({}, ("control_in_text", said))
    assert good.refused is None


def test_what_a_template_does_to_one_record_refuses_that_record(tmp_path: Path) -> None:
    template = made.CHATML.replace("m.content", "(m.content | replace('bad', 'good'))")
    template = (
        "{% for m in messages %}{% if 'rude' in m.content %}{{ raise_exception('no') }}{% endif %}{% endfor %}"
        + template
    )
    chat = layout(tmp_path, template)
    rows = [record("bad?"), record(trace="3 is bad"), record("rude?"), record()]
    found = [encoded.refused for encoded in chat.encode(rows, KINDS)]
    assert [refused and refused[0] for refused in found] == [*["template_alters"] * 2, "template_refuses", None]
    assert found[0][1] == "it writes 't|>user\\ngood?<|im_end|>\\n', not 't|>user\\nbad?<|im_end|>\\n<'"


def test_spans_that_do_not_cover_the_trace_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"record r .*question q.*: span"):
        layout(tmp_path, made.CHATML).encode([replace(record(), spans=(Span(0, 3, "plan"),))], KINDS)


OTHER_PROMPT = made.CHATML.replace("<|im_start|>assistant", "<|bot|>", 1)
OPENS_TWICE = made.CHATML.replace("assistant\n", "assistant\n<think>\n").replace(
    "{{- m.content", "{{- ('<think>\n' if m.role == 'assistant' else '') + m.content"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('none here') }}{% endif %}" + made.CHATML
ONLY_USER = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
ONE_LINE = made.CHATML.replace("m.content", "m.content.split() | join(' ')")
TYPO = {"variables": {"enable_thinkin": True}}
REFUSED = {
    "drops": (made.DROPPING, {}, r"drops the reasoning .*set encode\.turn: generated"),
    "prefills and drops": (made.PREFILLING, {}, r"drops the reasoning .*set encode\.turn: generated"),
    "no turn": (ONLY_USER, {}, "drops the assistant's turn"),
    "off": (made.THINKING, OFF, r"thinking is off.*enable_thinking: true"),
    "no prompt of its own": (OTHER_PROMPT, {}, "begins the assistant's turn otherwise"),
    "opens twice": (OPENS_TWICE, {}, "opens the think block .* again"),
    "one line": (ONE_LINE, {}, r"cannot be trained on \(template_alters: it writes"),
    "escapes": (made.CHATML.replace("m.content", "m.content.replace('<b>', '')"), {}, r"trained on \(template_alters"),
    "no end": (made.CHATML.replace("<|im_end|>", ""), {}, "could not learn to stop; set encode.turn: generated"),
    "twice": (made.CHATML.replace("m.content", "m.content + m.content"), {}, "writes the question 2 times"),
    "date": ("{{ strftime_now('%d') }}" + made.CHATML, {}, "today's date"),
    "no system": (NO_SYSTEM, {"system": "x"}, r"refuses the messages system, user \(none here"),
    "unknown variable": (made.THINKING, TYPO, r"variables\.enable_thinkin.*did you mean 'enable_thinking'"),
    "our own variable": (made.THINKING, {"variables": {"messages": True}}, r"variables\.messages"),
    "no Jinja": ("{% if", {}, "not valid Jinja"),
    "none": (None, {}, r"no chat template; set encode\.template: plain"),
    "escape": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", {}, "refuses the messages"),
    "underscore": ("{% set n = namespace(__init__=1) %}", {}, "refuses the messages"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_templates_that_cannot_be_trained_on_are_refused_by_name(tmp_path: Path, name: str) -> None:
    template, config, said = REFUSED[name]
    with pytest.raises(InputError, match=rf"(?s){said}") as caught:
        layout(tmp_path, template, **config)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_prompt_whose_last_token_takes_in_what_follows_is_refused(tmp_path: Path) -> None:
    template = made.PREFILLING.replace("<think>\n'", "<think>'")
    layout(tmp_path / "symbol", template, True, **GENERATED)
    with pytest.raises(InputError, match=r"merges_with_prompt: the token '>.n' begins in the generation prompt"):
        layout(tmp_path / "text", template, False, **GENERATED)


def test_findings_name_what_a_template_does(tmp_path: Path) -> None:
    found = {
        name: layout(tmp_path / name, template, **config).findings
        for name, template, config in (
            ("chatml", made.CHATML, {}),
            ("thinking", made.THINKING, {}),
            ("prefilling", made.PREFILLING, GENERATED),
            ("emptying", made.THINKING.replace("{%- else %}", "{%- elif m.role == 'assistant' %}<think>\n\n</think>\n\n"
                                               "{{ m.content }}{% else %}"), {}),
        )
    }  # fmt: skip
    assert [row["trace_given_as"] for row in found.values()] == [
        "content", "reasoning_content", "generated", "reasoning_content",
    ]  # fmt: skip
    assert [row["earlier_turns"] for row in found.values()] == [
        "kept", "reasoning dropped", "reasoning dropped", "think block emptied",
    ]  # fmt: skip
    assert [row["prefilled"] for row in found.values()] == ["", "", "<think>\n", ""]


def test_several_templates_and_generation_marks(tmp_path: Path) -> None:
    marked = made.CHATML.replace("{{- m.content", "{% generation %}{{- m.content").replace(
        "{% endfor %}", "{% endgeneration %}{% endfor %}", 1
    )
    made.save(
        tmp_path,
        None,
        chat_template=[{"name": "tool_use", "template": "{% if"}, {"name": "default", "template": marked}],
    )
    chat = ChatLayout(tmp_path, LayoutConfig(template="chat"))
    (encoded,) = chat.encode([record()], KINDS)
    assert stretches(chat, encoded)[:2] == [("prompt", USER), ("control", "<think>\n")]


def test_stops_and_ids(tmp_path: Path) -> None:
    made.save(tmp_path, made.CHATML, bos_token=None)
    chat = ChatLayout(tmp_path, LayoutConfig(template="chat"))
    vocabulary = chat.backend.get_vocab()
    assert chat.stops == (vocabulary["<|im_end|>"], vocabulary["<|end|>"])
    assert chat.special_ids == {"bos": None, "eos": vocabulary["<|im_end|>"], "pad": vocabulary["<|pad|>"]}
    assert chat.read([*chat.tokens_of(["<think>\nso\n</think>\n\n8"])[0].ids, vocabulary["<|end|>"]])[1:4] == (
        "so",
        "8",
        True,
    )
    loose = chat.tokens_of(["<think>so </think>\n8 \n<|im_end|>"])[0].ids  # not quite as it was trained
    assert chat.read(loose)[1:4] == ("so", "8", True)
    assert chat.read(chat.tokens_of(["so it goes<|im_end|>"])[0].ids)[1:4] == ("so it goes", "so it goes", True)
    opened = chat.read(chat.tokens_of(["<think>\nso it goes<|im_end|>"])[0].ids)
    assert (opened.trace, opened.answer, opened.in_form) == ("so it goes", None, False)
    assert np.array(chat.prompt_ids("x")).max() < chat.size
    made.save(tmp_path, made.CHATML, pad_token=None)
    with pytest.raises(InputError, match="lacks the control symbol pad_token"):
        ChatLayout(tmp_path, LayoutConfig(template="chat"))
