"""Statements that are false under every usual reading, what was tried, and texts that are no statements but attacks."""

from __future__ import annotations

import time
from fractions import Fraction as F

import pytest

from tracestill.data_pipeline.soundness.equations import equations
from tracestill.data_pipeline.soundness.functions import Unreadable, apply, power

FALSE = [  # (text, what is quoted)
    (
        "the total is $6.50 + $2.00 + $1.00 + $1.00 + $2.50 + $3.00 = $14.00.",
        "$6.50 + $2.00 + $1.00 + $1.00 + $2.50 + $3.00 = $14.00",
    ),
    ("Becca has 3(51) + 12 = 153 cards", "3(51) + 12 = 153"),
    ("raised $430 + $750 + $300 + $700 = $2280", "$430 + $750 + $300 + $700 = $2280"),
    ("0.68*40 = 27 students", "0.68*40 = 27"),
    ("2 hours + 30 min = 160 min", "2 hours + 30 min = 160"),
    ("240 minutes / 60 = 5 hours", "240 minutes / 60 = 5"),
    ("17 / 5 = 3 remainder 4", "17 / 5 = 3"),
    ("17 / 5 = 4 remainder 2", "17 / 5 = 4"),
    ("\\frac{3}{4} \\times 20 = 16", "\\frac{3}{4} \\times 20 = 16"),
    ("\\sqrt{3^2 + 4^2} = 6", "\\sqrt{3^2 + 4^2} = 6"),
    ("log(10*10) = 3", "log(10*10) = 3"),
    ("int(7/2) = 2", "int(7/2) = 2"),
    ("-3^2 = 6", "-3^2 = 6"),
    ("-2^3 = 8", "-2^3 = 8"),
    ("2 dozen cups + 10 measuring spoons = 24", "2 dozen cups + 10 measuring spoons = 24"),
    ("24 hours in a day - (10 hours + 8 hours) = 15 hours", "24 hours in a day - (10 hours + 8 hours) = 15"),
    ("1.500 + 500 = 2.100 Euro", "1.500 + 500 = 2.100"),
    ("9 + 4 = 2 on a clock", "9 + 4 = 2"),
    ("3 * 10 = 31 dress shirts * $60 = $1860", "3 * 10 = 31 dress shirts * $60 = $1860"),
    ("3 * 10 = 30 dress shirts * $60 = $1700", "3 * 10 = 30 dress shirts * $60 = $1700"),
    ("10/3 ≈ 5", "10/3 ≈ 5"),
    ("3 + 4 > 8", "3 + 4 > 8"),
    ("20 * 5 is 101", "20 * 5 is 101"),
    ("3 times 5 equals 16", "3 times 5 equals 16"),
    ("3.65 divided by .05 equals 69", "3.65 divided by .05 equals 69"),
    ("cost <<48/2=25>>25", "48/2=25"),
    ("x = 5. Then 2x + 3 = 14", "2x + 3 = 14"),
    ("8.33x * $150 = $12375x", "8.33x * $150 = $12375x"),
    ("(1/4)*x + (1/3)*x = (5/12)*x", "(1/4)*x + (1/3)*x = (5/12)*x"),
    ("x + 10 + 66 + 10 = x + 76", "x + 10 + 66 + 10 = x + 76"),
    ("2/3 of the 30 students = 21", "2/3 of the 30 students = 21"),
    ("3 red + 11 blue + 25 green = 40 balls", "3 red + 11 blue + 25 green = 40"),
    ("5 bananas + 12 apples = 5 * $1.0 + 12 * $0.5 = $12", "5 * $1.0 + 12 * $0.5 = $12"),
    ("6:4 = 3:1", "6:4 = 3:1"),
    ("5! = 100", "5! = 100"),
    ("10² = 102", "10² = 102"),
    ("5 € + 3,50 € = 9,50 €", "5 € + 3,50 € = 9,50"),
    ("42% of the remaining 40 students, so 0.42*40 = 16 students", "0.42*40 = 16"),
    ("3 ft + 6 in = 43 in", "3 ft + 6 in = 43"),
    ("6 + 7 = 4 (mod 10)", "6 + 7 = 4"),
    ("π * 5^2 = 80", "π * 5^2 = 80"),
    ("half of the price is 20 + 5 = 26 dollars", "20 + 5 = 26"),
    ("2½ + 1½ = 5", "2½ + 1½ = 5"),
    ("100 / 7 = 14 R 3", "100 / 7 = 14"),
    ("4 / 3 = 1 and 2/3", "4 / 3 = 1 and 2/3"),
]


@pytest.mark.parametrize(("text", "quoted"), FALSE)
def test_what_is_false_under_every_reading_is_found(text: str, quoted: str) -> None:
    assert [one.text for one in equations(text) if not one.holds] == [quoted]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("3 + 4 = 7", ("as written",)),
        ("-3^2 = 9", ("a sign belongs to the base of a power",)),
        ("2 hours + 30 min = 150 min", ("units converted",)),
        ("3 * 10 = 30 shirts * $60 = $1800", ("a run-on sign",)),
        ("2 hours + 30 min = 160 min", ("as written", "units converted")),
        ("12÷1/2=24", ("a / b / c is a / (b / c)",)),
    ],
)
def test_an_equation_says_by_which_reading_it_holds_or_which_were_tried(text: str, why: tuple[str, ...]) -> None:
    assert [one.why for one in equations(text)] == [why]


def test_places_are_those_of_the_text_in_notes_and_in_latex_too() -> None:
    text = "So <<48/2=25>>25, and\n$\\frac{1}{2} \\times 5{,}000 = 2500$, 2½ + 1 = 3½, x = 4 and 2x + 1 = 9."
    found = equations(text)
    assert [text[one.start : one.end] for one in found] == [one.text for one in found]
    assert [one.holds for one in found] == [False, True, True, True]


def test_functions_refuse_what_is_too_large_or_has_no_value() -> None:
    for base, exponent in ((9, 65), (F(10) ** 40, 60), (0, 0), (0, -1), (-4, F(1, 2)), (2, F(2, 3))):
        with pytest.raises(Unreadable):
            power(F(base), F(exponent))
    for name, arguments in (
        ("log", [0]),
        ("factorial", [31]),
        ("factorial", [F(1, 2)]),
        ("gcd", [F(1, 2), 2]),
        ("sin", [1]),
    ):
        with pytest.raises(Unreadable):
            apply(name, [F(one) for one in arguments])
    assert power(F(27), F(1, 3)) == (3, 0)
    assert power(F(9, 4), F(1, 2)) == (F(3, 2), 0)
    assert apply("lcm", [F(4), F(6)]) == (12, 0)


HOSTILE = {
    "newlines": "\n" * 100_000,
    "commas": "1," * 50_000 + "=1",
    "groups": "111," * 25_000 + "=1",
    "points": "111." * 25_000 + "=1",
    "notes": "<<1" * 33_000,
    "braces": "\\frac{1}{" * 11_000 + "=1",
    "texts": "\\text{" * 16_000,
    "spaces": " " * 100_000 + "=1",
    "word": "a-" * 50_000 + "= 1",
    "powers": "9^" * 50_000 + "9 = 1",
    "factorials": "30!*" * 25_000 + "1 = 2",
    "signs": "-" * 100_000 + "1 = 2",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_line_of_100_kilobytes_takes_no_long_time(name: str) -> None:
    begin = time.process_time()
    equations(HOSTILE[name])
    assert time.process_time() - begin < 4
