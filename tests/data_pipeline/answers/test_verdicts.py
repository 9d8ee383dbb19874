"""Verdicts on pairs: the labelled table, what auto decides, and what a question decides."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from real_data import benchmark

from tracestill.data_pipeline.answers import Case, Verifier, verify
from tracestill.data_pipeline.answers.apart import workers
from tracestill.data_pipeline.answers.numbers import quantity
from tracestill.data_pipeline.answers.numbers.tongues import WORDS, may_be, number_word
from tracestill.data_pipeline.answers.numbers.words import SMALL, number_of_words
from tracestill.data_pipeline.answers.verify import Later, auto, kind_of
from tracestill.data_pipeline.base.errors import InputError

TABLE = Path(__file__).parents[3] / "benchmarks/labels/verdicts.tsv"
needs_algebra = pytest.mark.skipif(not workers.is_there(), reason=workers.REMEDY)


def rows() -> list[list[str]]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))[1:]


def test_every_labelled_pair_gets_its_verdict():
    """Without algebra here; with it in the next test."""
    pairs = [(row, auto(*row[:3])) for row in rows()]
    assert len(pairs) >= 500
    assert [(row[:4], said) for row, said in pairs if not isinstance(said, Later) and said.outcome != row[3]] == []
    assert sum(isinstance(said, Later) for _, said in pairs) < 130


def test_half_of_the_labelled_pairs_mislead_plain_comparisons():
    with benchmark("plain_comparison") as plain:
        told = [("yes" if plain.is_trap(row[0], row[1], row[3]) else "no") for row in rows()]
        assert plain.is_trap("5 km", "5 m", "wrong")
        assert plain.is_trap("\\frac{9}{12}", "0.75", "right")
        assert not plain.is_trap("$1,200.00", "1200", "right")
        assert not plain.is_trap("18", "19", "wrong")
    assert told == [row[4] for row in rows()]
    assert told.count("yes") >= len(told) / 2


@needs_algebra
def test_every_labelled_pair_of_expressions_gets_its_verdict():
    apart = [row for row in rows() if isinstance(auto(*row[:3]), Later)]
    assert len(apart) > 30
    found = Verifier().verdicts([Case(*row[:3]) for row in apart])
    assert [(row[:4], said) for row, said in zip(apart, found, strict=True) if said.outcome != row[3]] == []


@pytest.mark.parametrize(
    ("gold", "question", "kind"),
    [
        ("12", "", "number"), ("3 apples", "", "number"), ("50%", "", "number"), ("twelve", "", "number"),
        (r"\frac{1}{2}", "", "number"), ("B", "", "choice"), ("(b)", "", "choice"), ("no", "", "yes_no"),
        ("Paris", "", "text"), ("CO", "", "text"), ("14:30", "", "time"), ("3:10", "What is the ratio?", "ratio"),
        ("[1, 3)", "", "interval"), ("x > 3", "", "interval"), ("(1, 2)", "", "list"), ("{1, 2}", "", "set"),
        ("(1, 2)", "On which interval?", "interval"), (r"\sqrt{2}", "", "expression"), ("x^2+1", "", "expression"),
        (r"\{\sqrt{2}, 1\}", "", "expression"), ("G", "", "text"),
        ("G", "A) 1 B) 2 C) 3 D) 4 E) 5 F) 6 G) 7", "choice"),
    ],
)  # fmt: skip
def test_the_gold_answer_decides(gold: str, question: str, kind: str):
    assert kind_of(gold, question) == kind


def test_readings_are_told():
    found = verify("$1,200.50", "1200.5")
    assert found == ("right", "1200.5", "1200.5", "number", "")
    assert found.right
    assert verify("50%", "50", "What percent is it?").answer == "50 (percent)"
    assert verify("50%", "50", "How many are left?")[:2] == ("wrong", "0.5")
    assert verify("10²", "102")[:3] == ("wrong", "100", "102")


def test_a_verifier_can_be_named():
    assert verify("b", "B", how="choice").outcome == "right"
    assert verify("b", "B", how="text").outcome == "wrong"
    assert verify("2, 1", "1, 2", how="set").outcome == "right"
    assert verify("2:30", "14:30", how="text").outcome == "wrong"
    assert verify(" ", "B", how="choice").outcome == "wrong"
    with pytest.raises(InputError, match="'numbr'"):
        verify("1", "1", how="numbr")


@given(st.fractions(max_denominator=1000, min_value=-(10**6), max_value=10**6))
def test_every_way_of_writing_a_number_is_that_number(value: Fraction):
    top, bottom = abs(value.numerator), value.denominator
    sign = "−" if value < 0 else ""
    ways = [f"{sign}{top}/{bottom}", rf"{'-' if sign else ''}\frac{{{top}}}{{{bottom}}}", f"x = {sign} {top}/{bottom}"]
    if top > bottom > 1:
        ways.append(f"{sign}{top // bottom} {top % bottom}/{bottom}")
    for text in ways:
        found = quantity(text)
        assert found is not None
        assert found.value == value
        assert verify(text, f"{value.numerator}/{bottom}").outcome == "right"
        assert verify(text, f"{value.numerator + 1}/{bottom}").outcome == "wrong"


def english(number: int) -> str:
    """Independent of the reader: a number below a million in words."""
    if number < 20 or (number < 100 and number % 10 == 0):
        return next(word for word, value in SMALL.items() if value == number)
    if number < 100:
        return f"{english(number // 10 * 10)}-{english(number % 10)}"
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if number >= size:
            rest = number % size
            joint = " and " if size == 100 else " "
            return f"{english(number // size)} {name}" + (joint + english(rest) if rest else "")
    raise AssertionError


@given(st.integers(0, 999_999))
def test_numbers_in_words_are_read(number: int):
    assert number_of_words(english(number)) == (number, "")
    found = quantity(f"{english(number)} apples")
    assert found is not None
    assert found.value == number


@given(st.text(max_size=60), st.text(max_size=20))
def test_nothing_raises_and_all_equal_themselves(text: str, other: str):
    found = auto(text, text)
    assert isinstance(found, Later) or found.right == bool(text.strip())
    auto(text, other)
    auto(other, text)


@pytest.mark.parametrize(
    "piece", ["1,", "1 ", "{", "(", "a, ", "\\frac{", "-", "$", "one ", "x = ", "[1,2),", "1:", "=", "so ", "and, "]
)
def test_long_texts_cost_no_time(piece: str):
    """Each of these would take minutes if matching were quadratic and nothing were bounded."""
    text = piece * (20_000 // len(piece))
    for gold in ("1", "B", "yes", "Monday", "1, 2", "[1, 2)", "14:30", "x^2"):
        auto(text, gold)
        auto(gold, text)


@pytest.mark.parametrize("brackets", ["[]", "{}", "()"])
def test_lists_within_lists_end_somewhere(brackets: str):
    """Far deeper than Python may call."""
    deep = brackets[0] * 4_000 + "1, 2" + brackets[1] * 4_000
    for gold in ("[1, 2]", "{1, 2}", "1, 2"):
        assert not verify(deep, gold).right
        assert not verify(gold, deep).right


def test_a_verifier_that_is_not_known_is_refused_before_anybody_is_asked():
    for how in ("auto", "number", "list"):
        Verifier().check(how)
    with pytest.raises(InputError, match="unknown"):
        Verifier().check("nubmer")
    with pytest.raises(InputError, match="allow_code"):
        Verifier().check("code")


def test_each_language_has_a_word_for_each_number():
    for words in WORDS.values():
        found = [" ".join(word.split()) for word in words.split(",")]
        assert len(set(found)) == len(found) == 101
        assert all(found)


def test_number_words_of_five_languages_are_those_of_num2words():
    num2words = pytest.importorskip("num2words").num2words
    for language in ("es", "de", "fr", "it", "pt", "pt_BR"):
        for number in range(101):
            word = num2words(number, lang=language)
            said = number_word(word) or number_word(word.upper())
            assert said is None or (said.value, said.unit) == (number, None)
            assert said is not None or number in may_be(word)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("doce", 12), ("ZWÖLF", 12), ("zwoelf.", 12), ("douze", 12), ("dreissig", 30), ("vingt-et-un", 21),
        ("veintiuna manzanas", 21), ("treinta y un", 31), ("ventun giorni", 21), ("noventa e duas", 92),
        ("soixante et onze", 71), ("\\text{doce}", 12), ("hundert", 100),
    ],
)  # fmt: skip
def test_small_numbers_in_other_languages_are_read(text: str, value: int):
    found = number_word(text)
    assert found is not None
    assert found.value == value
    assert verify(text, str(value)).right
    assert verify(str(value), text).right
    assert verify(text, str(value + 1)).outcome == "wrong"


@pytest.mark.parametrize(
    "text",
    ["doce de las manzanas", "veinte mil", "zwei hundert", "dos tercios", "drei Uhr", "zwei Dutzend", "doce trece",
     "12", "", "una manzana", "ein Hund", "docena", "y doce", "zwölf Komma fünf", "-", "doce 3"],
)  # fmt: skip
def test_what_is_more_than_a_number_word_is_none(text: str):
    assert number_word(text) is None


@pytest.mark.parametrize("word", ["uno", "una", "ein", "elf", "once", "seize"])
def test_a_word_of_several_meanings_decides_nothing(word: str):
    (value, *_) = may_be(word)
    assert number_word(word) is None
    assert verify(word, str(value)).outcome == verify(str(value), word).outcome == "cannot_tell"
    assert verify(word, str(value + 1)).outcome == "wrong"
    assert verify(word, word.capitalize()).right
    assert kind_of(word) == "text"


def test_expressions_equal_for_positive_letters_alone_are_told_apart():
    from tracestill.data_pipeline.answers.apart.server import differ

    sympy = pytest.importorskip("sympy")
    x = sympy.Symbol("x")
    assert differ(x, sympy.sqrt(x**2)) is False
    assert differ(x, sympy.sqrt(x**2), -1) is True
    assert differ(x + 1, 1 + x, -1) is False
