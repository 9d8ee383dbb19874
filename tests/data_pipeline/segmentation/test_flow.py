"""Segmentation by value flow: whole cover for any text, what each kind is, in several languages, and its speed."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import span_fault
from tracestill.data_pipeline.segmentation import spans_of
from tracestill.data_pipeline.segmentation.flow import flow
from tracestill.data_pipeline.segmentation.lexer import value_of
from tracestill.data_pipeline.segmentation.parts import step_ends

PIECES = [
    *("First find", "3 + 4 = 7", "<<3+4=7>>", "7", "Check", "Wait,", "so", ".", "!", "\n", " ", "1.", "3.5", "x", "="),
    *("-", "(", ")", "$", "\\frac{1}{2}", "```", "\\(", "。", "48除以2等于24", "पहले", "twenty-five", "%", ":", ","),
]  # fmt: skip
TEXTS = (
    st.text(max_size=60)
    | st.lists(st.sampled_from(PIECES), max_size=20).map(" ".join)
    | st.lists(st.sampled_from(PIECES)).map("".join)
)
LETTER = {"plan": "P", "expression": "E", "result": "R", "statement": "S", "check": "C", "prose": "O"}


def marked(question: str, trace: str) -> str:
    """The trace with a letter before each stretch of one kind."""
    return "".join(f"{LETTER[s.kind]}[{trace[s.start : s.end].strip()}]" for s in spans_of(flow(question, trace)))


@settings(max_examples=150, deadline=None)
@given(TEXTS, TEXTS)
def test_spans_cover_any_text_and_neighbours_differ(question: str, trace: str) -> None:
    spans = spans_of(flow(question, trace))
    assert span_fault(trace, spans, Kinds().members("trace")) is None
    assert all(a.kind != b.kind for a, b in pairwise(spans))


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        (
            "Natalia sold 48/2 = <<48/2=24>>24 clips in May.",
            "S[Natalia sold]E[48/2 = <<48/2=24>>]R[24]S[clips in May.]",
        ),
        ("So he has 3 tickets left.", "S[So he has]R[3]S[tickets left.]"),
        ("So he has twenty-five tickets left.", "S[So he has]R[twenty-five]S[tickets left.]"),
        ("He had 48 tickets.", "O[He had 48 tickets.]"),
        ("If each has 5, then all have 5 * 9 = 45.", "O[If each has 5,]S[then all have]E[5 * 9 =]R[45.]"),
        ("First find the total: 3 + 4 = 7", "P[First find the total:]E[3 + 4 =]R[7]"),
        ("We need to add 48 and 5.", "P[We need to add 48 and 5.]"),
        ("We first find that there are 12 of them.", "S[We first find that there are]R[12]S[of them.]"),
        ("Step 2: Calculate the rest.", "P[Step 2: Calculate the rest.]"),
        ("2. The rest is 7.", "S[2. The rest is]R[7.]"),
        ("3 red apples + 4 green apples = 7 apples", "E[3 red apples + 4 green apples =]R[7]S[apples]"),
        ("She pays $5/hour for 48 hours.", "O[She pays $5/hour for 48 hours.]"),
        ("He gives 1/4 of it away.", "O[He gives 1/4 of it away.]"),
        ("It takes 5-48 days.", "O[It takes 5-48 days.]"),
        ("2x + 5 = 48. So x = 21.5.", "E[2x + 5 = 48.]S[So]E[x =]R[21.5.]"),
        ("80 - 220 = -140", "E[80 - 220 =]R[-140]"),
        ("It is 3 times 5, which is 15.", "S[It is]E[3 times 5,]S[which is]R[15.]"),
        (r"\(5 \times 4 = 20\)", r"E[\(5 \times 4 =]R[20\)]"),
        ("$$\\frac{48}{3} = 16$$", "E[$$\\frac{48}{3} =]R[16$$]"),
        ("```python\nx = 3 * 4\n# the area\n```", "E[```python\nx = 3 * 4]O[# the area]E[```]"),
        ("The answer is 48.", "O[The answer is 48.]"),
        ("", ""),
        ("  \n", "O[]"),
    ],
)
def test_a_clause_is_cut_by_what_it_does_with_values(trace: str, expected: str) -> None:
    assert marked("He had 48 tickets, 5 coins, 9 more and gave 1/4 of them.", trace) == expected


@pytest.mark.parametrize(
    ("trace", "expected"),
    [
        ("It is 6 * 7 = 42. Check: 42 / 7 = 6.", "S[It is]E[6 * 7 =]R[42.]C[Check: 42 / 7 = 6.]"),
        ("6 * 7 = 42. And 42 / 7 = 6.", "E[6 * 7 =]R[42.]C[And 42 / 7 = 6.]"),
        ("Let me verify: twice 6 is 12, and 12 + 1 = 13.", "C[Let me verify: twice 6 is 12, and 12 + 1 = 13.]"),
        ("Wait, that's wrong. It is 6 + 8 = 14.", "C[Wait, that's wrong.]S[It is]E[6 + 8 =]R[14.]"),
        ("42 - 6 = 36. 6 + 36 = 42, so this is right.", "E[42 - 6 =]R[36.]C[6 + 36 = 42, so this is right.]"),
        ("He writes a check for 6 dollars.", "O[He writes a check for 6 dollars.]"),
    ],
)
def test_what_is_verified_repaired_or_computed_again_checks(trace: str, expected: str) -> None:
    assert marked("6 and 7 and 42", trace) == expected


LANGUAGES = {
    "en": "First, we need to find May. In May she sold 48/2 = 24 clips. Check: 24 * 2 = 48. So she has 24.",
    "zh": "首先，我们需要计算五月。五月她卖了48/2=24个。验算：24*2=48。所以她有24个。",
    "es": "Primero hay que calcular mayo. En mayo vendió 48/2 = 24 pinzas. Comprobemos: 24 * 2 = 48. Tiene 24.",
    "de": "Zuerst müssen wir den Mai berechnen. Im Mai waren es 48/2 = 24 Stück. Probe: 24 * 2 = 48. Sie hat 24.",
    "fr": "D'abord, il faut calculer mai. En mai il y en a 48/2 = 24 en tout. Vérifions : 24 * 2 = 48. Elle en a 24.",
    "hi": "पहले हमें मई की संख्या ज्ञात करनी है। मई में उसने 48/2 = 24 क्लिप बेचे। जाँच: 24 * 2 = 48। उसके पास 24 हैं।",
}


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_language_plans_derives_checks_and_tells_in_its_own_words(language: str) -> None:
    kinds = [span.kind for span in spans_of(flow("48", LANGUAGES[language]))]
    assert kinds == ["plan", "statement", "expression", "result", "statement", "check", "prose"]


def test_values_flow_without_words_that_are_known() -> None:
    """Of a language without a file, too: a new value derives, a known one does not."""
    assert marked("Ania ma 48 jabłek.", "Ania ma 48 jabłek. Zostało jej 31 jabłek.") == (
        "O[Ania ma 48 jabłek.]S[Zostało jej]R[31]S[jabłek.]"
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("2,080", 2080), (".5", 0.5), ("१२", 12), ("三百二十", 320), ("两", 2), ("三万五千", 35000), ("十二", 12)),
        *(("twenty-five", 25), ("vingt-deux", 22), ("dreißig", 30), ("1.000.000", 1e6), ("٣", 3)),
        ("一" + "万" * 100, 1e30),
    ],
)
def test_numbers_of_any_script(text: str, value: float) -> None:
    assert value_of(text) == value


def test_sentences_end_in_every_script_and_not_behind_abbreviations() -> None:
    trace = "他有3个。她有4个！够吗？उसके पास 5 हैं। هل هذا صحيح؟ Das kostet z. B. 5 Euro. See No. 5 here. No. It is 3．5."
    ends = step_ends(trace)
    assert [trace[a:b].strip() for a, b in pairwise((0, *ends))] == [
        *("他有3个。", "她有4个！", "够吗？", "उसके पास 5 हैं।", "هل هذا صحيح؟", "Das kostet z. B. 5 Euro."),
        *("See No. 5 here.", "No.", "It is 3．5."),
    ]  # fmt: skip


def test_it_is_fast() -> None:
    """A minute of one core is to cut 100,000 traces of GSM8K's size: 0.6 ms each. (Twice that: others work here.)"""
    question = (
        "Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May. How many?"
    )
    line = "Natalia sold 48/2 = <<48/2=24>>24 clips in May, which is half of what she sold before.\n"
    trace = line * 4
    taken = []
    for _ in range(5):
        start = time.process_time()
        for _ in range(40):
            flow(question, trace)
        taken.append((time.process_time() - start) / 40)
    assert min(taken) < 1.2e-3


@pytest.mark.parametrize(
    "piece", ["a, ", "wait, 1+1=2, ", "1=", "(1", "\\frac{", "<<1", "```\n", "and she ", "a. ", "1x", "1 a b c d e f "]
)
def test_no_text_takes_longer_than_its_length(piece: str) -> None:
    trace = piece * (20_000 // len(piece))
    start = time.process_time()
    flow(trace, trace)
    assert time.process_time() - start < 2, "0.1 s of 20,000 characters; one that looks back each time takes ten"


def test_an_equation_said_again_and_again_takes_no_longer() -> None:
    start = time.process_time()
    flow("", "1+2=3, " * 15000)
    assert time.process_time() - start < 2  # 0.3 s; one that goes back over all checks takes ten
