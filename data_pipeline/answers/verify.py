"""Whether an answer says the same as the gold answer: verifiers by name, and which of them is asked.

verify("$1,200", "1200").outcome             # right
verify("10²", "102").outcome                 # wrong
verify("50%", "0.5", "What is the chance?")  # Verdict("right", "0.5", "0.5", "number", "")
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from tracestill.data_pipeline.answers import expression, lists
from tracestill.data_pipeline.answers.formula import formula_of
from tracestill.data_pipeline.answers.lists import verify_interval, verify_list, verify_ratio, verify_set
from tracestill.data_pipeline.answers.numbers.number import CURRENCIES
from tracestill.data_pipeline.answers.numbers.quantity import quantity, shown, unframed
from tracestill.data_pipeline.answers.numbers.tongues import may_be, number_word
from tracestill.data_pipeline.answers.numbers.units import asked_unit
from tracestill.data_pipeline.answers.numeric import decimal_comma, verify_number
from tracestill.data_pipeline.answers.plain import (
    is_prose,
    letter_of,
    options_of,
    verify_choice,
    verify_text,
    verify_yes_no,
)
from tracestill.data_pipeline.answers.times import NAMED, time_of, verify_time
from tracestill.data_pipeline.answers.verdict import Verdict

Verify = Callable[[str, str, str], Verdict]

FAST = re.compile(r"\s*[$€£]?(-?)(?:(\d{1,15})|(\d{1,3}(?:,\d{3}){1,4}))(?:\.(\d{1,12}))?\.?\s*", re.A)
YES_NO = frozenset({"yes", "no", "true", "false", "sí", "oui", "nein", "是", "否"})
LETTER = re.compile(r"\(?[A-J]\)|\(?[A-E]\.?|\([a-j]\)|option [A-Ja-j]")
LATER_LETTER = re.compile("[F-J]")  # a letter of a choice only where a question offers so many
SCALED = re.compile(r"(-?\d[\d.,]*)\s?[kKmMbB]n?")
HYPHENED = re.compile(r"[A-Za-z]{2,}(?:-[A-Za-z]{2,})+")  # "co-op": a word, or a difference of products
RATIO_ASKED = re.compile(r"\bratios?\b", re.I)


class Case(NamedTuple):
    """One pair, and the verifier that is to judge it."""

    answer: str
    gold: str
    question: str = ""
    how: str = "auto"


class Later(NamedTuple):
    """A pair that needs a process apart."""

    answer: str
    gold: str


class Written(NamedTuple):
    sign: str
    digits: str
    decimals: str


def plain_number(text: str) -> tuple[Written, Written | None] | None:
    """A number written plainly, without zeros that say nothing, and what it is in the other convention of separators,
    if it may be of that; None for any other text."""
    match = FAST.fullmatch(text)
    if match is None:
        return None
    sign, plain, grouped, decimals = match.groups()
    other = None
    if grouped is not None:
        plain = grouped.replace(",", "")
        if decimals is None and len(plain) < 7 and plain[0] != "0":
            other = written(sign, plain[:-3], plain[-3:])
        elif plain[0] == "0":
            return None
    elif decimals is not None and len(decimals) == 3 and len(plain) < 4 and plain[0] != "0":
        other = written(sign, plain + decimals, "")
    return written(sign, plain, decimals or ""), other


def written(sign: str, digits: str, decimals: str) -> Written:
    digits, decimals = digits.lstrip("0") or "0", decimals.rstrip("0")
    return Written("" if digits == "0" and not decimals else sign, digits, decimals)


def auto(answer: str, gold: str, question: str = "") -> Verdict | Later:
    """What the gold answer is decides: number, choice, yes or no, time, interval, set, list, expression, else text."""
    left, right = plain_number(answer), plain_number(gold)
    if left is not None and right is not None and _one_money(answer, gold, question):
        (mine, other_mine), (goal, other_goal) = left, right
        same = mine == goal
        if other_mine is None and other_goal is None:
            clear = True
        else:
            clear = not decimal_comma(question) and (same or (other_mine != goal and other_goal != mine))
        if clear:
            read = f"{mine[0]}{mine[1]}.{mine[2]}" if mine[2] else mine[0] + mine[1]
            held = f"{goal[0]}{goal[1]}.{goal[2]}" if goal[2] else goal[0] + goal[1]
            return Verdict("right" if same else "wrong", read, held, "number")
    if not gold.strip():
        return Verdict("cannot_tell", "", "", "text", "there is no gold answer")
    if not answer.strip():
        return Verdict("wrong", "", gold.strip()[:200], kind_of(gold, question), "the answer is empty")
    return by_kind(kind_of(gold, question), answer, gold, question)


def _one_money(answer: str, gold: str, question: str) -> bool:
    """Whether no sign of money makes a difference: both have it, or one of them, and no unit is asked for."""
    mine, goal = answer.lstrip()[:1], gold.lstrip()[:1]
    if mine in CURRENCIES and question and asked_unit(question):
        return False
    return mine == goal or mine not in CURRENCIES or goal not in CURRENCIES


def kind_of(gold: str, question: str = "") -> str:
    """The verifier that a gold answer asks for."""
    plain = unframed(gold)
    if LETTER.fullmatch(plain) or (LATER_LETTER.fullmatch(plain) and plain in options_of(question)):
        return "choice"
    if plain.isascii() and plain.isalpha():
        if plain.casefold() in NAMED:
            return "time"
        if plain.casefold() in YES_NO:
            return "yes_no"
        return "number" if (quantity(gold) or number_word(gold)) is not None else "text"
    if (quantity(gold) or number_word(gold)) is not None:
        return "number"
    first, comma, rest = plain.casefold().partition(",")
    if first in YES_NO and not (comma and YES_NO & set(rest.replace(",", " ").split())):  # "Yes, it is"
        return "yes_no"
    if lists.RATIO.fullmatch(plain) and (RATIO_ASKED.search(question) or time_of(gold) is None):
        return "ratio"
    if time_of(gold) is not None:
        return "time"
    if lists.is_range(gold, question):
        return "interval"
    items = lists.items_of(gold)
    if items is not None and (items.opening or len(items.items) > 1) and not _sentence(items):
        if lists.needs_algebra(items.items):
            return "expression"
        return "set" if items.opening == "{" else "list"
    return "expression" if expression.is_expression(plain) and not formula_of(plain) else "text"


def _sentence(items: lists.Items) -> bool:
    """Whether a bare list may as well be prose with commas: its items have many words, or it is an expression."""
    if items.opening:
        return False
    long = any(len(item.split()) > 3 and quantity(item) is None for item in items.items)
    return long or (len(items.items) < 2)


def by_kind(kind: str, answer: str, gold: str, question: str) -> Verdict | Later:
    """The verdict of ``auto`` once the gold answer's kind is known, or what has to be compared apart."""
    if kind != "choice" and question and (letter := letter_of(unframed(answer))):
        answer = options_of(question).get(letter, answer)
    if kind == "number":
        return _number(answer, gold, question)
    if kind == "ratio":
        return verify_ratio(answer, gold)
    if kind == "expression":
        as_text = verify_text(answer, gold, question) if HYPHENED.fullmatch(unframed(gold)) else None
        return as_text if as_text is not None and as_text.outcome != "wrong" else algebra(answer, gold)
    if kind == "list" and lists.intervals_of(gold) is not None and lists.is_range(answer, question):
        kind = "interval"  # "[0, 1]", and the answer takes it for one
    if kind == "list":
        items = lists.items_of(gold)
        if items is not None and not items.opening and all(is_prose(item) for item in items.items):
            as_text = verify_text(answer, gold, question)  # "Paris, France"
            if as_text.outcome != "wrong":
                return as_text
    if kind == "text" and (numbers := may_be(gold)):
        said = quantity(answer) or number_word(answer)
        if said is not None and said.value in numbers:
            return Verdict("cannot_tell", shown(said.value), gold.strip(), kind, "a number by one of its meanings")
    if kind == "text" and len(gold.strip()) == 1 and expression.is_expression(answer):
        return algebra(answer, gold)
    if kind in ("set", "list", "interval") and expression.is_expression(answer):
        found = BUILT_IN[kind](answer, gold, question)
        if found.outcome == "right" or not re.search(r"\\(?:frac|sqrt|pi|cup|setminus|mathbb|neq?)|√|π|≠", answer):
            return found
        return algebra(answer, gold)
    return BUILT_IN[kind](answer, gold, question)


def _number(answer: str, gold: str, question: str) -> Verdict | Later:
    """A number; of a gold answer like "2,3" also the list that it may be; of an expression its value."""
    if expression.DASHED.fullmatch(unframed(answer)):
        return Verdict("cannot_tell", "", unframed(gold), "number", "a range, or a difference")
    found = verify_number(answer, gold, question)
    reference = quantity(gold)
    if reference is not None and reference.comma and found.outcome != "right":
        as_list = verify_list(answer, gold.replace(",", ", "), question)
        if lists.items_of(answer) is not None and as_list.outcome in ("right", "cannot_tell"):
            return as_list
    plain = unframed(answer)
    if plain.endswith("!") and verify_number(plain[:-1], gold, question).right:
        return Verdict("cannot_tell", plain, found.gold, "number", "a factorial, or a cry")
    if (short := SCALED.fullmatch(plain)) and any(
        verify_number(f"{short[1]} {word}", gold, question).right for word in ("thousand", "million", "billion")
    ):
        return Verdict("cannot_tell", plain, found.gold, "number", "a thousand or a million, or another unit")
    if not found.answer and expression.is_expression(unframed(answer)) and lists.items_of(answer) is None:
        return algebra(answer, gold)
    return found


def algebra(answer: str, gold: str) -> Verdict | Later:
    found = expression.before_algebra(answer, gold)
    return found if isinstance(found, Verdict) else Later(*found)


def verify_expression(answer: str, gold: str, question: str = "") -> Verdict:
    """Right if algebra (math-verify, in a process apart) finds both equal, exactly; ``timeout`` if that takes long."""
    return settled([algebra(answer, gold)])[0]


def settled(found: list[Verdict | Later]) -> list[Verdict]:
    """The same with what had to be compared apart, all of it together."""
    waiting = [one for one in found if isinstance(one, Later)]
    if not waiting:
        return [one for one in found if isinstance(one, Verdict)]
    told = iter(expression.compared([(one.answer, one.gold) for one in waiting]))
    return [next(told) if isinstance(one, Later) else one for one in found]


BUILT_IN: dict[str, Verify] = {
    "number": verify_number,
    "choice": verify_choice,
    "yes_no": verify_yes_no,
    "text": verify_text,
    "list": verify_list,
    "set": verify_set,
    "interval": verify_interval,
    "time": verify_time,
    "expression": verify_expression,
}


def decide(case: Case) -> Verdict | Later:
    """One verdict of ``auto`` or of a verifier that is built in, or what has to be compared apart for it."""
    if case.how == "auto":
        return auto(case.answer, case.gold, case.question)
    if case.how == "expression":
        return algebra(case.answer, case.gold)
    if not case.answer.strip():
        return Verdict("wrong", "", case.gold.strip()[:200], case.how, "the answer is empty")
    return BUILT_IN[case.how](case.answer, case.gold, case.question)


def same_answer(answer: str, gold: str, question: str = "") -> bool:
    """Whether ``auto`` says right, without what needs a process apart: an expression has to be written alike."""
    found = auto(answer, gold, question)
    return isinstance(found, Verdict) and found.outcome == "right"
