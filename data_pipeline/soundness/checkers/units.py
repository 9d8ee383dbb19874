"""Units that do not match (``units``): a sum whose terms are money and hours, ``$14,000 - 1600 gallons``.

A term is a number with its unit behind it, or money by its sign. A sum is false if two of its terms are of two sorts of
measure. Terms that are multiplied or divided, rates (``$5 per hour``), and units that are no measure (``3 apples``) say
nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise

from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

SORTS = {
    "time": "second seconds minute minutes hour hours day days week weeks month months year years",
    "money": "cent cents dollar dollars euro euros pesos",
    "length": "inch inches foot feet yard yards mile miles millimeter millimeters centimeter centimeters meter meters "
    "kilometer kilometers km cm mm",
    "weight": "gram grams kilogram kilograms kg ounce ounces pound pounds ton tons",
    "volume": "milliliter milliliters liter liters litre litres ml gallon gallons quart quarts pint pints cup cups",
}
SORT_OF = {unit: sort for sort, units in SORTS.items() for unit in units.split()}
TERM = re.compile(r"(?P<money>[$€£])?\s?(?P<number>\d[\d,]*(?:\.\d+)?)(?:\s(?P<unit>[a-z]+))?")
NEAR = 40  # characters behind a sum in which its sign of equality stands
JOIN = re.compile(r"\s*[-+−–]\s*")
BESIDE = re.compile(r"[\d)]\s*[*×/÷x]\s*$|[(\d)]\s*\($|\b(?:for|per|every|each|of|in|to)\s$")


def units(trace: Trace) -> Iterator[Finding]:
    text = trace.text
    if "+" not in text and "-" not in text and "−" not in text and "–" not in text:
        return
    terms = list(TERM.finditer(text))
    for left, right in pairwise(terms):
        if not JOIN.fullmatch(text, left.end(), right.start()):
            continue
        if "=" not in text[right.end() : right.end() + NEAR]:
            continue
        one, other = sort_of(left, text), sort_of(right, text)
        if one and other:
            holds = one == other
            detail = "" if holds else f"{one} and {other}: {text[left.start() : right.end()].strip()}"
            yield Finding(left.start(), right.end(), "holds" if holds else "false", detail)


def sort_of(term: re.Match[str], text: str) -> str:
    """The sort of measure of a term that stands alone in a sum; empty if it has none."""
    behind = text[term.end() : term.end() + 2].lstrip()
    beside = BESIDE.search(text, max(0, term.start("number") - 8), term.start("number"))
    if beside or behind[:1] in tuple("*×/÷x("):
        return ""
    named = SORT_OF.get(term["unit"] or "", "")
    if term["money"]:
        return "money" if not named or named == "money" else ""
    return named
