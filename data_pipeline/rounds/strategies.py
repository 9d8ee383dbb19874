"""The strategy of a trace: its equations with the numbers named by where they come from, so that traces of different
questions can be the same one.

``9+4=13. 13+7=20.`` about (7 + 4 + 9) is ``q2+q1=r0 r0+q0=r1``: the third number of the question and the second, then
what came out and the first. The path of a trace, ``selection.paths``, tells traces of one question apart; this tells
ways of solving apart. A trace without an equation has no strategy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction

from tracestill.data_pipeline.soundness.equations import Equation

NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
OTHER = "n"  # a number from nowhere, or one of the question for the second time


def strategy(question: str, equations: Sequence[Equation]) -> str:
    """The strategy of a trace, empty without any equation.

    A number is, in this order: the newest result that was not used yet, the first number of the question that was not,
    the newest result that was, or one from nowhere. What stands behind an equation's last sign is its result.
    """
    asked = [value_of(text) for text in NUMBER.findall(question)]
    results: list[Fraction] = []
    used: set[str] = set()
    steps = []
    for equation in equations:
        sides = re.split(r"(<=|>=|[=<>≈≤≥])", equation.path)
        if len(sides) == 1:
            continue
        left = "".join(sides[:-1])
        named = NUMBER.sub(lambda match: name_of(value_of(match[0]), asked, results, used), left)
        steps.append(f"{named}r{len(results)}")
        found = NUMBER.search(sides[-1])
        results.append(value_of(found[0]) if found else Fraction(-1))
    return " ".join(steps)


def value_of(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def name_of(value: Fraction, asked: Sequence[Fraction], results: Sequence[Fraction], used: set[str]) -> str:
    came = [f"r{at}" for at, result in reversed(list(enumerate(results))) if result == value]
    posed = [f"q{at}" for at, number in enumerate(asked) if number == value]
    every = [*(name for name in (*came, *posed) if name not in used), *came]
    if not every:
        return OTHER
    used.add(every[0])
    return every[0]


def rare_ones(strategies: Iterable[str], share: float) -> frozenset[str]:
    """The least frequent strategies that together hold ``share`` of the traces, and all that are as frequent as the
    last of them. Traces without a strategy are not counted."""
    counts = Counter(each for each in strategies if each)
    held, total = 0, counts.total()
    found: list[str] = []
    for times in sorted(set(counts.values())):
        alike = [name for name, count in counts.items() if count == times]
        found += alike
        held += times * len(alike)
        if held >= share * total:
            break
    return frozenset(found)
