"""Conversions of units, and quotients that count whole things."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from tracestill.data_pipeline.soundness import conversions, equations
from tracestill.data_pipeline.soundness.checkers import Trace
from tracestill.data_pipeline.soundness.checkers.chain import DEFAULT, Checks

HOLD = """\
2 hours = 120 minutes
2 hours and 10 minutes is 130 minutes, so it is late.
5 feet 6 inches = 66 inches
100 minutes = 1.67 hours
90 minutes is 1.5 hours.
3 dozen = 36 eggs
3 dozen eggs = 36 eggs
24 eggs = 2 dozen
1.5 km = 1500 m
1,500 m = 1.5 km
1.500 m = 1,5 km
1/2 hour = 30 minutes
½ hour = 30 minutes
We know that $0.40 = 40 cents.
a nickel is 5 cents.
2 \\text{ hours} = 120 \\text{ minutes}
365 days = 52 weeks
130 minutes = 2 hours (rounded down)
One dozen is equal to 12, and he has two.
2 horas = 120 minutos
2 Stunden sind 120 Minuten.
10 years is a decade."""
FALSE = """\
2 hours = 130 minutes
So 2 hours is 130 minutes.
2 hours and 10 minutes is 140 minutes.
5 feet 6 inches = 56 inches
100 minutes = 1.76 hours
3 dozen = 30 eggs
3 dozen eggs = 30 eggs
A dozen is 13.
20 eggs = 2 dozen
1.5 km = 150 m
1 kg = 100 g
$1 = 110 cents
2 hours = 120 minutes = 7300 seconds
1 day = 30 hours
2 years = 26 months
2 \\text{ hours} = 130 \\text{ minutes}
2 horas = 130 minutos
6 ft = 60 in"""
UNTOLD = """\
3 apples = 6 dollars
1 inch = 20 miles
1 euro = 1.1 dollars
1 euro = 110 cents, and $1 = 100 cents
3 hours = 60 miles
1 day = 8 hours
1 week = 5 days
1 year = 9 months
1 cup = 5 ounces
1 dozen = 3 boxes
2 dozen = $6
12 months = 52 weeks
1 month = 30 days
the time saved in 2 hours = 30 minutes
half of 1 hour = 20 minutes
1 hour is 30 minutes longer than that
So 1 hour is 30 minutes and 30 minutes.
1 hour = 30 minutes (reading) + 30 minutes
1 hour = 30 minutes, 30 minutes for lunch
5 hours = 30 minutes * 10
20 minutes per hour = 30 minutes
A quarter is 30 cents.
2 hours = 130 minutes. Wait, that is wrong.
2 hours = 130 minutes. No: 2 hours = 120 minutes.
Suppose 2 hours = 130 minutes
4K = 96
84/12 = 7 dozens
Each class has 1 hour = 45 minutes"""


def told(text: str) -> set[bool]:
    return {one.holds for one in conversions(text)}


@pytest.mark.parametrize("text", HOLD.splitlines())
def test_a_conversion_that_is_right_under_a_usual_reading_holds(text: str) -> None:
    assert told(text) == {True}


@pytest.mark.parametrize("text", FALSE.splitlines())
def test_one_that_is_right_under_none_is_false_and_rejects_the_trace(text: str) -> None:
    assert False in told(text)
    for before in ("", "She works all day.\n", "Note: "):
        fault = Checks(DEFAULT, "checks").fault(Trace(before + text))
        assert fault is not None
        assert fault[0] == "false_equation"


@pytest.mark.parametrize("text", UNTOLD.splitlines())
def test_what_may_be_no_conversion_or_one_of_no_certain_size_is_not_called_false(text: str) -> None:
    assert False not in told(text)
    assert Checks(DEFAULT, "checks").fault(Trace(text)) is None


def test_a_conversion_says_where_it_stands_and_is_no_equation_of_the_path() -> None:
    text = "So \\(2 \\text{ hours} = 130 \\text{ minutes}\\), which is 130 + 10 = 140 minutes."
    (one,) = conversions(text)
    assert text[one.start : one.end] == one.text == "2 \\text{ hours} = 130 \\text{ minutes"
    assert [found.text for found in equations(text)] == ["130 + 10 = 140"]


@pytest.mark.parametrize(
    "text",
    ["1 hour = 61 minutes. " * 5000, "1 hour " * 20_000, "1 " * 50_000 + "hours = 1 minute", "9" * 50_000 + " h = 1 s"],
)
def test_hostile_runs_take_linear_time(text: str) -> None:
    start = time.process_time()
    conversions(text)
    assert time.process_time() - start < 4


@pytest.mark.parametrize(
    "text",
    [
        "365 / 7 = 52 weeks",
        "365 / 7 = 53 weeks",
        "\\frac{365}{7} = 52 \\text{ weeks}",
        "He needs 130 / 40 = 4 buses.",
        "He needs 130 / 40 = 4 yellow school buses.",
        "100 / 3 = 33 people each",
        "He can buy $20 / $1.50 = 13 pens",
        "1200 / 350 = 3 boxes, so 4 boxes are needed.",
        "The number of boxes is 1200 / 350 = 3",
        "There are 52 weeks in a year (365 / 7 = 52).",
        "365 / 7 = 52. We round down.",
        "365 / 7 = about 52",
        "25 / 2 = 12 dollars, rounded down",
        "100 personas / 3 = 33 personas",
    ],
)
def test_a_quotient_is_rounded_where_it_counts_what_is_whole_or_the_text_says_so(text: str) -> None:
    assert [one.text for one in equations(text) if not one.holds] == []


@pytest.mark.parametrize(
    "text",
    [
        "365 / 7 = 54 weeks",
        "365 / 7 = 51 weeks",
        "364 / 7 = 53 weeks",
        "130 / 40 = 5 buses",
        "She needs 104 / 24 = 4 trays to bake all of the cookies.",
        "He can buy 25 / 2 = 13 pens",
        "He got 856 pens because 899.4 / 1.05 = 856",
        "365 / 7 = 54. We round up.",
        "25 / 2 = 12 dollars",
        "25 / 2 = $12",
        "25 / 2 = 12 miles",
        "25 / 2 = 12 hours",
        "25 / 2 + 1 = 13 boxes",
        "0.68 * 40 = 27 students",
        "365 / 7 = 52.3 weeks",
        "25 / 2 = 12",
    ],
)
def test_a_quotient_that_is_wrong_or_measures_stays_false(text: str) -> None:
    assert Counter(one.holds for one in equations(text)) == {False: 1}
