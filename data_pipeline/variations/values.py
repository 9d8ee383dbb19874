"""Numbers in questions: where they stand, whether one is the gold answer, and problems whose program is known."""

from __future__ import annotations

import ast
import operator
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.numbers.quantity import shown
from tracestill.data_pipeline.answers.numbers.words import SMALL
from tracestill.data_pipeline.answers.verify import LETTER, YES_NO
from tracestill.data_pipeline.base.schema import Question

DIGITS = re.compile(r"(?<![\w.,])\d+(?:,\d{3})*(?:\.\d+)?(?![\w]|[.,]\d)")
FREE = re.compile(r"(?<![\w.,:/%-])\d+(?![\w:/%-]|[.,]\d| ?%)")  # a whole number that is no part of a date, rate, range
OPERAND = re.compile(r"\d+(?:\.\d+)?")
WORD = re.compile(r"[^\W\d_]+")
PROGRAM = re.compile(r"`|\w\((?!e?s\))")
FORMULA = re.compile(rf"[\\={{}}\[\]<>]|[\d)]!|{PROGRAM.pattern}")  # every sign may mean something
LEAST, MOST = 11, 97  # of numbers that do not matter, as long as enough of them are free
DRAWS = 400  # of numbers for one problem
LARGEST = 99_999  # number in a problem, or its gold answer
OPERATIONS: Mapping[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def values_in(text: str) -> list[Fraction]:
    """The numbers in a text, in digits or in English words below a hundred."""
    digits = [Fraction(found.replace(",", "")) for found in DIGITS.findall(text)]
    return digits + [Fraction(SMALL[word]) for word in WORD.findall(text.lower()) if word in SMALL]


def times_told(gold: str, text: str) -> int:
    """How often a gold answer stands in a text: as a value if it is a number, as ``C)`` if it is a choice, else by its
    words. A yes that stands beside a no gives nothing away."""
    if (value := number(gold)) is not None:
        return values_in(text).count(value)
    if LETTER.fullmatch(gold.strip()):  # of a choice: no article
        return text.count(f"{re.sub(r'[^A-Za-z]', '', gold.strip()[-3:])})")
    words, wanted = (" ".join(re.findall(r"\w+", each.casefold())) for each in (text, gold))
    if wanted in YES_NO and len(YES_NO.intersection(words.split())) > 1:
        return 0
    return len(re.findall(rf"(?<!\w){re.escape(wanted)}(?!\w)", words)) if wanted else 0


def is_computed(question: Question) -> bool:
    """Whether an answer follows from the numbers of a question, and not from what is so in the world."""
    said = number(question.gold) is not None or LETTER.fullmatch(question.gold.strip()) is not None
    return said and bool(values_in(question.question))


def unlike(question: Question, draw: random.Random) -> int:
    """A number that neither the question holds nor its gold answer is."""
    taken = {*values_in(question.question), number(question.gold)}
    return draw.choice([n for n in range(LEAST, MOST + 1 + len(taken)) if n not in taken])


def by_equation(question: Question, draw: random.Random) -> Question | None:
    """The same problem with larger numbers, where its metadata holds the equation that gives its gold answer, over
    numbers that each stand once in it; their order of size stays. None where that is not so, or no numbers fit."""
    name = next((name for name in question.metadata if name.lower() == "equation"), None)
    held = question.metadata[name] if name else None
    if not isinstance(held, str) or (tree := parsed(held)) is None:
        return None
    text, gold, operands = question.question, number(question.gold), operands_of(tree)
    known = values_in(text)
    free = [Fraction(match[0]) for match in FREE.finditer(text)]
    if value_of(tree, {}) != gold or len(set(operands)) != len(operands):
        return None
    if any(known.count(value) != 1 or value not in free for value in operands):
        return None
    sums_only = not any(isinstance(node, ast.Mult | ast.Div) for node in ast.walk(tree))
    if sums_only and (len(free) < len(known) or len({0, *free}) <= len(free)):
        return None  # all numbers grow together, or there would be less than nothing of something
    for _ in range(DRAWS):
        new = grown(sorted(free if sums_only else operands), sums_only, draw)
        found = value_of(tree, new)
        if found is None or found.denominator != 1 or not 0 < found <= LARGEST or found in (gold, *new.values()):
            continue
        if len({*new.values(), *known}) < len(new) + len(set(known)):
            continue
        metadata = {**question.metadata, str(name): with_numbers(held, new, OPERAND)}
        return replace(question, question=with_numbers(text, new), gold=shown(found), metadata=metadata)
    return None


def grown(values: Sequence[Fraction], alike: bool, draw: random.Random) -> dict[Fraction, Fraction]:
    """Values in order -> larger ones in the same order; ``alike``: about as many times as large, each."""
    factor, new, least = draw.randint(3, 19), dict[Fraction, Fraction](), 0
    for value in values:
        times = factor if alike else draw.randint(2, 9)
        least = max(least + 1, int(value) * times + draw.randrange(min(times, 9)))
        new[value] = Fraction(least)
    return new


def with_numbers(text: str, new: Mapping[Fraction, Fraction], numbers: re.Pattern[str] = FREE) -> str:
    return numbers.sub(lambda match: str(new.get(Fraction(match[0]), match[0])), text)


def parsed(equation: str) -> ast.expr | None:
    """Sums, differences, products and quotients of whole numbers above zero; None for anything else."""
    try:
        tree = ast.parse(equation.strip(), mode="eval").body
        return tree if all(map(is_plain, ast.walk(tree))) else None
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def is_plain(node: ast.AST) -> bool:
    """Whether a node of a parsed equation is an operation that is known, or a whole number in its bounds."""
    if isinstance(node, ast.Constant):
        value = node.value
        return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= LARGEST and not value % 1
    return isinstance(node, ast.BinOp) or type(node) in OPERATIONS


def operands_of(tree: ast.expr) -> list[Fraction]:
    return [fraction_of(node) for node in ast.walk(tree) if isinstance(node, ast.Constant)]


def fraction_of(node: ast.Constant) -> Fraction:
    """The number of a node that ``is_plain``."""
    assert isinstance(node.value, int | float)
    return Fraction(int(node.value))


def value_of(tree: ast.expr, new: Mapping[Fraction, Fraction]) -> Fraction | None:
    """The value of an equation with ``new`` numbers for some of its own; None if it divides by zero."""
    if isinstance(tree, ast.Constant):
        own = fraction_of(tree)
        return new.get(own, own)
    assert isinstance(tree, ast.BinOp)
    left, right = value_of(tree.left, new), value_of(tree.right, new)
    if left is None or right is None or (isinstance(tree.op, ast.Div) and not right):
        return None
    return OPERATIONS[type(tree.op)](left, right)
