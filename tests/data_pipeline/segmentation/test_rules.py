"""Segmentation: whole cover for any text, and the documented rules."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Span, span_fault
from tracestill.data_pipeline.segmentation.parts import spans_of, step_ends, step_of
from tracestill.data_pipeline.segmentation.rules import rules

WORDS = [
    "First find x:",
    "3 + 4 = 7",
    "Check",
    "Wait,",
    "so",
    ".",
    "!",
    "\n",
    " ",
    "Mr.",
    "1.",
    "3.5",
    "let us add",
    "?)",
    "\n\n",
]
TEXTS = (
    st.text(max_size=60)
    | st.lists(st.sampled_from(WORDS), max_size=20).map(" ".join)
    | st.lists(st.sampled_from(WORDS)).map("".join)
)


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_spans_cover_any_text_and_neighbours_differ(text: str) -> None:
    spans = spans_of(rules("", text))
    assert span_fault(text, spans, Kinds().members("trace")) is None
    assert "".join(text[span.start : span.end] for span in spans) == text
    assert all(a.kind != b.kind for a, b in pairwise(spans))


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_steps_cover_any_text_in_order_and_each_says_something(text: str) -> None:
    ends = step_ends(text)
    assert list(ends) == sorted(set(ends))
    assert bool(ends) == bool(text)
    if text:
        assert ends[-1] == len(text)
        starts = [0, *ends[:-1]]
        assert [step_of(ends, at) for at in starts] == list(range(len(ends)))
        assert [step_of(ends, end - 1) for end in ends] == list(range(len(ends)))
        if text.strip():
            assert all(text[a:b].strip() for a, b in zip(starts, ends, strict=True))


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        ("First we need to find the cost.", "plan"),
        ("Then find the time that it takes.", "plan"),
        ("Let's solve this step by step:", "plan"),
        ("Let T be the number of balls.", "plan"),
        ("She has 3 + 4 = 7 apples.", "derive"),
        ("So 24 times 3 gives it.", "derive"),
        ("Wait, that's wrong.", "check"),
        ("Check 30+1=31.", "check"),
        ("Let me verify the sum.", "check"),
        ("To check, 7 - 4 = 3.", "check"),
        ("The weather is fine.", "prose"),
        ("He starts on day 3.", "prose"),
    ],
)
def test_a_step_gets_the_kind_of_its_rule(step: str, kind: str) -> None:
    assert [span.kind for span in spans_of(rules("", step))] == [kind]


def test_a_plan_and_its_computation_are_cut_at_the_colon() -> None:
    trace = "First find the total: 3 cats + 4 cats = 7 cats\nIt is 9 o'clock.\n"
    parts = [(trace[span.start : span.end], span.kind) for span in spans_of(rules("", trace))]
    assert parts == [
        ("First find the total:", "plan"),
        (" 3 cats + 4 cats = 7 cats\n", "derive"),
        ("It is 9 o'clock.\n", "prose"),
    ]


@pytest.mark.parametrize(
    ("step", "parts"),
    [
        ("First: find the total: 3 + 4 = 7", ["plan First: find the total:", "derive  3 + 4 = 7"]),
        ("First the total: 3 + 4 = 7: done", ["plan First the total:", "derive  3 + 4 = 7: done"]),
        ("First 2 + 2 = 4: then 3 + 4 = 7", ["derive First 2 + 2 = 4: then 3 + 4 = 7"]),
        ("The total: 3 + 4 = 7", ["derive The total: 3 + 4 = 7"]),
        ("First at 14:30 it is 3 + 4 = 7", ["derive First at 14:30 it is 3 + 4 = 7"]),
        ("Check: first the total: 3 + 4 = 7", ["check Check: first the total: 3 + 4 = 7"]),
    ],
)
def test_the_cut_is_at_the_last_colon_before_the_first_equation(step: str, parts: list[str]) -> None:
    assert [f"{span.kind} {step[span.start : span.end]}" for span in spans_of(rules("", step))] == parts


def test_steps_end_at_sentences_and_lines_but_not_at_abbreviations_decimals_and_list_numbers() -> None:
    trace = "Mr. Lee pays 3.5 dollars. Then 2 more!\n\n1. Add them. \n2. Done"
    ends = step_ends(trace)
    assert [trace[a:b] for a, b in zip((0, *ends), ends, strict=False)] == [
        "Mr. Lee pays 3.5 dollars. ",
        "Then 2 more!\n\n",
        "1. Add them. \n",
        "2. Done",
    ]


@pytest.mark.parametrize("word", ["Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs", "etc", "fig", "eq", "e.g", "i.e"])
def test_an_abbreviation_ends_no_step(word: str) -> None:
    trace = f"See {word}. Ann. {word.upper()}. Bob!"
    assert step_ends(trace) == (trace.index("Ann.") + 5, len(trace))
    assert len(step_ends(f"See x{word}. Ann.")) == 2, "the end of a word is none"


@pytest.mark.parametrize(
    "spans",
    [
        [Span(0, 2, "plan")],
        [Span(0, 2, "plan"), Span(3, 4, "plan")],
        [Span(0, 3, "plan"), Span(2, 4, "plan")],
        [Span(0, 4, "plan"), Span(4, 4, "plan")],
        [Span(0, 4, "answer")],
        [Span(0, 5, "plan")],
        [],
    ],
)
def test_faulty_spans_are_named(spans: list[Span]) -> None:
    assert span_fault("abcd", spans, Kinds().members("trace"))
