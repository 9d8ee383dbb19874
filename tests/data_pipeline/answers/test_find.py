"""Comparison of answers: numbers exactly, texts up to form."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracestill.data_pipeline.answers.find import find_answer
from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verify import same_answer


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("7", "7.0"), ("- 7", "-7"), ("−7", "-7"), ("7e4", "70000"), ("1{,}000", "1000"), ("1,234,567.50", "1234567.5"),
        ("$18", "18"), ("18.", "18"), ("50%", "0.5"), ("12 apples", "12"),
        ("3/4", "0.75"), ("1 1/2", "1.5"), ("-$5", "-5"), ("$-5", "-5"),
        (r"\$20", "20"), (".5", "1/2"), ("Yes", "yes"), (" A ", "A."), ("new  york", "New York"), ("14:30", "14:30"),
        ("-1 1/2", "-1.5"), ("\uff39es", "yes"), ("stra\u00dfe", "STRASSE"),
    ],
)  # fmt: skip
def test_equal_answers(answer: str, gold: str) -> None:
    assert same_answer(answer, gold)
    assert same_answer(gold, answer)


@pytest.mark.parametrize(
    ("answer", "gold"),
    [
        ("- 7", "7"), ("7e4", "7"), ("1{,}000", "1"), ("14:30", "14"), ("1,00", "100"),
        ("", ""), (" ", ""), ("7 8", "78"), ("3 4", "4"), ("3 4", "7"), ("3 4", "12"),
        ("--5", "5"), ("-$-5", "-5"), ("1.5.", "15"), ("5..", "5"), ("1e401", "1e402"), ("-1 1/2", "-0.5"),
        ("0.333", "1/3"), ("yes", "no"), ("12 apples", "21"), ("1/0", "0"), ("1e999999999", "1"), ("5-3", "2"),
        ("50", "50%"),
    ],
)  # fmt: skip
def test_different_answers(answer: str, gold: str) -> None:
    assert not same_answer(answer, gold)
    assert not same_answer(gold, answer)


@given(st.integers(-(10**12), 10**12), st.integers(0, 6))
def test_every_way_of_writing_a_number_gives_the_number(whole: int, places: int) -> None:
    value = Fraction(whole, 10**places)
    digits = f"{abs(whole):0{places + 1}d}"
    plain = digits[: len(digits) - places] + ("." + digits[-places:] if places else "")
    sign = "-" if whole < 0 else ""
    assert number(sign + plain) == value
    assert number(f"{sign}{whole if whole >= 0 else -whole}e-{places}") == value
    assert number(f"{whole}/{10**places}") == value
    assert number(f"{sign}{abs(whole) // 10**places:,}" + ("." + digits[-places:] if places else "")) == value


@given(st.text(max_size=40))
def test_any_text_equals_itself_and_raises_nothing(text: str) -> None:
    assert same_answer(text, text) == bool(text.strip())


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("18", "18", "whole"),
        (" 1,234.5\n", " 1,234.5\n", "whole"),
        ("She makes 9 * 2 = $18 every day at the market.", "$18", "last_number"),
        ("Total: $1,234.50.", "$1,234.50", "last_number"),
        (r"so \(\boxed{42}\), not 7", "42", "boxed"),
        (r"first \boxed{1}, then \boxed{\frac{1}{2}}", "1/2", "boxed"),
        (r"\boxed{x = 5} of 12", "5", "boxed"),
        ("5 and 6\n#### 1,000 dollars", "1,000", "hashes"),
        ("The answer is **12**.", "12", "sentence"),
        ("**Answer:** 12 eggs\nThat was 1 line.", "12", "sentence"),
        ("The answer is 3 + 4 = 7.", "7", "sentence"),
        ("The answer is not clear: 5", "5", "sentence"),
        ("\\boxed{5}\n#### 3\nThe answer is 4.", "5", "boxed"),
        ("#### 3\nThe answer is 4.", "3", "hashes"),
        ("#### 3\n#### 4\n5", "4", "hashes"),
        ("The answer is 3.\nNo: the answer is 5.\nAnd 6.", "5", "sentence"),
        ("The answer is 2 * 3 + 1 = 6 + 1 = 7.", "7", "sentence"),
        ("The answer is 7 of 9.", "7", "sentence"),
        ("\\boxed{} and #### none, so the answer is 8", "8", "sentence"),
        ("5-3", "3", "last_number"),
        ("it is -3", "-3", "last_number"),
        ("10^2 is v2 of 3/4 of 50%", "50%", "last_number"),
        ("no number at all", None, "none"),
        ("  ", None, "none"),
    ],
)
def test_a_number_is_found_in_what_was_written(text, answer, rule):
    assert find_answer(text, numeric=True) == (answer, rule)


@pytest.mark.parametrize(
    ("text", "answer", "rule"),
    [
        ("Monday", "Monday", "whole"),
        ("3 apples", "3 apples", "whole"),
        ("The answer is Monday.", "Monday", "sentence"),
        ("I think.\nAnswer: **(B)**", "(B)", "sentence"),
        (r"\boxed{x^{2}}", "x^{2}", "boxed"),
        (r"\boxed{never closed", r"\boxed{never closed", "whole"),
        ("", None, "none"),
    ],
)
def test_a_text_is_found_in_what_was_written(text, answer, rule):
    assert find_answer(text, numeric=False) == (answer, rule)


@pytest.mark.parametrize(
    ("piece", "found"),
    [
        (" ", None),
        ("answer ", None),
        ("answer is\n ", None),
        ("1", None),  # no number has so many digits
        ("1,111", "1"),
        ("\\boxed{", None),
        ("####", None),
        ("1/", "1/1"),
        ("- $", None),
    ],
)
def test_a_model_that_repeats_itself_costs_no_time(piece, found):
    """Quadratic matching of these 200,000 characters would take minutes."""
    rule = "none" if found is None else "last_number"
    assert find_answer("x " + piece * (200_000 // len(piece)), numeric=True) == (found, rule)


@pytest.mark.parametrize(
    ("answer", "gold", "same"),
    [
        ("(B)", "B", True),
        (r"\text{B}", "B", True),
        (r"\dfrac{1}{2}", r"\frac{1}{2}", True),
        (r"\frac12", r"\frac{1}{2}", True),
        (r"3\frac{1}{2}", "3.5", True),
        (r"-\frac{1}{2}", "-0.5", True),
        (r"\left( 1, 2 \right)", "(1,2)", True),
        (r"\left( 1, \pi \right)", r"(1,\pi)", True),
        ("x^{2} + 1", "x^2+1", True),
        (r"\frac{1}{2}", r"\frac{1}{3}", False),
        (r"\text{A}", "B", False),
        ("x^{12}", "x^1 2", False),
        ("(ab)", "ab", False),
    ],
)
def test_answers_set_in_latex_are_compared_as_they_read(answer: str, gold: str, same: bool) -> None:
    assert same_answer(answer, gold) is same
    assert same_answer(gold, answer) is same
