"""The verifier ``expression``: what looks like one, and the fast path before algebra."""

from __future__ import annotations

import re

from tracestill.data_pipeline.answers.apart import workers
from tracestill.data_pipeline.answers.lists import opened
from tracestill.data_pipeline.answers.numbers.quantity import quantity, shown
from tracestill.data_pipeline.answers.plain import cased_text
from tracestill.data_pipeline.answers.times import time_of
from tracestill.data_pipeline.answers.verdict import Verdict

BY = "expression"
MOST = 4_000  # characters that are given to algebra
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
FUNCTIONS = frozenset({
    "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "arcsin", "arccos", "arctan", "sinh", "cosh",
    "tanh", "mod", "max", "min", "pi",
})  # fmt: skip
SIGNS = re.compile(
    r"\\(?!text|mathrm|boxed)[A-Za-z]+|[\^√π∞≤≥≠]|[A-Za-z0-9)}]\s*[-+*/=]\s*[\\A-Za-z0-9({√]|\d[A-Za-z]\b|\w!"
    r"|\b(?:log|ln|sin|cos|tan)(?:_\w+)?\s*\(?\s*\d|\blog_|\dpi\b|^-\(|^\|.+\|$"
)
VARIABLE = re.compile(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])")
COLON = re.compile(r"\d\s*:\s*\d")
COMMAND = re.compile(r"\\(?:begin|end)\{\w+\}|\\[A-Za-z]+")
DASHED = re.compile(r"\d+(?:\.\d+)?\s*[-–]\s*\d+(?:\.\d+)?")


def is_expression(text: str) -> bool:
    """Whether a text looks like one: signs of mathematics, and no words of prose."""
    if len(text) > MOST or COLON.search(text) or not SIGNS.search(text):
        return False
    words = WORD.findall(COMMAND.sub(" ", text))
    if any(word.lower() not in FUNCTIONS for word in words):
        return False
    return "\\text" not in text or not re.search(r"\\text\{[^}]*[A-Za-z]{3,}", text)


def compact(text: str) -> str:
    """An expression without how it is set: spaces, ``\\left``, ``\\dfrac``, a dot for a product."""
    plain = cased_text(opened(text))
    for mark, instead in (("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\cdot", "*"), ("\\times", "*"), ("**", "^")):
        plain = plain.replace(mark, instead)
    return re.sub(r"\\[,;:! ]|\s+|\\displaystyle", "", plain)


def before_algebra(answer: str, gold: str) -> Verdict | tuple[str, str]:
    """A verdict where none of algebra is needed, or what it is to be given: the answer and the gold one.

    What math-verify is known to misread never reaches it: a number goes in as plain digits (it reads ``- 7`` as 7,
    ``7e4`` as 7 and ``1{,}000`` as 1), a time of day or words not at all.
    """
    said, wanted = compact(answer), compact(gold)
    if said == wanted:
        return Verdict("right", said, wanted, BY)
    if not said:
        return Verdict("wrong", "", wanted, BY, "the answer is empty")
    mine, goal = (set(VARIABLE.findall(COMMAND.sub(" ", text))) for text in (said, wanted))
    if mine != goal and {name.lower() for name in mine} == {name.lower() for name in goal}:
        return Verdict("wrong", said[:200], wanted, BY, "of other letters")  # math-verify takes X for x
    number = quantity(answer)
    if number is not None:
        if number.unit is not None and number.unit.dimensions and not is_expression(answer):
            return Verdict("cannot_tell", shown(number.value), wanted, BY, "a number with a unit")
        said = shown(number.value / 100 if number.percent else number.value)
        return said, plain_gold(gold)
    if time_of(answer) is not None or COLON.search(answer):
        return Verdict("wrong", said[:200], wanted, BY, "the answer is no expression")
    if DASHED.fullmatch(opened(answer)):
        return Verdict("cannot_tell", said, wanted, BY, "a range, or a difference")
    if not is_expression(answer) and not re.fullmatch(r"[\\{}\[\]()A-Za-z0-9,.;|\s]{1,40}", opened(answer)):
        return Verdict("cannot_tell", said[:200], wanted, BY, "the answer is no expression")
    if len(said) > 6 and any(word.lower() not in FUNCTIONS for word in WORD.findall(COMMAND.sub(" ", opened(answer)))):
        return Verdict("cannot_tell", said[:200], wanted, BY, "the answer is text")
    return opened(answer), plain_gold(gold)


def plain_gold(gold: str) -> str:
    number = quantity(gold)
    return opened(gold) if number is None else shown(number.value / 100 if number.percent else number.value)


def compared(pairs: list[tuple[str, str]]) -> list[Verdict]:
    """Verdicts of algebra on pairs (answer, gold)."""
    if not workers.is_there():
        return [Verdict("cannot_tell", "", "", BY, workers.REMEDY) for _ in pairs]
    found = workers.WORKERS.compare(pairs)
    return [Verdict(one["outcome"], one["answer"], one["gold"], BY, one["detail"]) for one in found]
