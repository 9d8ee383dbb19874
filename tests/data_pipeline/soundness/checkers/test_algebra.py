"""Equations with letters: the value of a letter from step to step, identities, values put in."""

from __future__ import annotations

import pytest

from tracestill.data_pipeline.soundness.checkers.algebra import algebra
from tracestill.data_pipeline.soundness.checkers.finding import Trace


def false(text: str) -> list[str]:
    return [text[one.start : one.end] for one in algebra(Trace(text)) if one.outcome == "false"]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("40 - 12 - 3x = 19\nSubtracting, we get: -3x = -19", "-3x = -19"),
        ("We have 5X + 21 = 44. Solving for X, we get X = 6.", "X = 6"),
        ("The number of calls is (60x * 5) / 15 = 40x.", "(60x * 5) / 15 = 40x"),
        ("The area is (x * 8) + (x * 8) + (5 * 8) + (5 * 8) = 2x * 8 + 40 square feet.",
         "(x * 8) + (x * 8) + (5 * 8) + (5 * 8) = 2x * 8 + 40 square feet"),
        ("x - (3/8)*x - (1/4)*x = x - (4/8)*x - (2/8)*x", "x - (3/8)*x - (1/4)*x = x - (4/8)*x - (2/8)*x"),
        ("0.79 * 0.79x = 0.6161x, as it was", "0.79 * 0.79x = 0.6161x"),
        ("A = 3 + 3 = 6\nB = 2 * 5 = 10\nthen A - B = 6 - 9 = -3", "A - B = 6 - 9"),
        ("(842 - 900)/x = -29\nx = 21", "x = 21"),  # not linear: only the values are compared
        ("$80 * x + $24 = $440.\nSubtracting $24 from both sides: $80 * x = $464.", "$80 * x = $464"),
        ("3(n + 2) = 18\nn + 2 = 5", "n + 2 = 5"),
    ],
)  # fmt: skip
def test_what_contradicts_is_found(text: str, wrong: str) -> None:
    assert false(text) == ([] if "/x" in text else [wrong])


@pytest.mark.parametrize(
    "text",
    [
        "40 - 12 - 3x = 19, so 28 - 3x = 19, so -3x = -9 and x = 3",
        "2x + 3x = 5x. Since 5x = 60, x = 12 apples.",
        "Let x be the boys. x + 5 = 9, so x = 4.\nLet x be the girls. x + 5 = 10, so x = 5.",
        "x + y = 10 and x - y = 2, so 2x = 12 and x = 6 and y = 4, x + y = 10",
        "We know that s + w = 54 and s = 3w - 6, so 3w - 6 + w = 54, 4w = 60, w = 15",
        "10/3 = x, so x = 3.33 and 3x = 10",
        "There are 5 x 3 = 15 pens and 2 x 4 = 8 books",
        "H = 3L, the house costs H = 3 * 30000 = 90000",
        "Adam's age in 8 years = A + 8\nA = 30",
        "day 1:\nD = 1\nday 2:\nD = 2",
        "x = 5\nx = x + 1",
        "x + 2 dozen = 60, so x + 24 = 60 and x = 36",
        "x + 5 = 9, so x = 5. Wait, that is wrong: x = 4.",
        "After 5 hours the charge is x - 45 = x - 45%.",
        "x + 2x = 3x = 1 hour, so 3x = 60 minutes and x = 20",
        "it costs $280k, and $280k - $40k = 240k remain",
        "40% of P = 240, so 0.4 * P = 240 and P = 600",
        "x^2 = 9, so x = 3, x^2 = 16",
        "the value of a is 5 = 5 a day",
        "If x = 3 then 2x = 6. If x = 4 then 2x = 8.",
    ],
)
def test_what_is_right_or_not_read_is_left(text: str) -> None:
    assert false(text) == []


def test_a_false_step_is_followed_by_what_it_says() -> None:
    found = [one.outcome for one in algebra(Trace("2x = 10\nx = 4\nx + 1 = 5"))]
    assert found == ["false", "holds"]


@pytest.mark.parametrize(
    "text",
    [
        "(x - 1)(x - 6) = 0, so x - 1 = 0 or x - 6 = 0, so x = 1 or x = 6.",
        "x^2 - 7x + 6 = 0. From x - 1 = 0 we get x = 1, from x - 6 = 0 we get x = 6.",
    ],
)
def test_a_letter_with_several_values_contradicts_nothing(text: str) -> None:
    assert false(text) == []


def test_arrows_part_equations() -> None:
    assert false("2x + 5 = 15 → 2x = 10 → x = 6") == ["x = 6"]
