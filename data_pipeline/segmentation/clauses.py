"""The clauses of a step, and what each says and does with values."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

from tracestill.data_pipeline.segmentation.formulas import DASHES, NUMBER_CODE, Formula, formulas, places_of
from tracestill.data_pipeline.segmentation.lexer import (
    ANYWHERE_SAID,
    CLOSE,
    FACTOR,
    IDEOGRAPH,
    JOINT,
    MARK,
    NUMBER,
    OPEN,
    OPERATES,
    OTHER,
    OTHERS,
    SIGN,
    STOP,
    WORD,
    Lexed,
    finder,
    is_type,
    is_word,
    lex,
    value_of,
)
from tracestill.data_pipeline.segmentation.many import Lexicon
from tracestill.data_pipeline.segmentation.words import (
    ANYWHERE,
    COUNTED,
    FACTORS,
    JOINTS,
    LEAD,
    PLAN,
    STARTS,
    UNSPACED,
    YIELDS,
    Phrases,
)

BARE = 2  # words of a clause that is nothing but a formula
LEADS = 8  # words that may stand before a verb of plan
COUNTS = FACTOR | IDEOGRAPH | OPERATES  # of words that more is asked of than what they say
BOUNDS = finder(lambda code: is_type(code, STOP, OPEN, CLOSE) or is_word(code, JOINT))
ALONE = finder(lambda code: is_type(code, STOP, OTHER) or (code < OTHERS and not code & COUNTS))
PLAIN = re.compile(ALONE.pattern + b"*")
WORDS = finder(lambda code: code < OTHERS)
SAID = finder(lambda code: is_word(code, ANYWHERE_SAID))
OF_VALUE = finder(lambda code: is_word(code, FACTOR | IDEOGRAPH))


@dataclass(slots=True)
class Clause:
    """Tokens [first, last) and what was seen in them."""

    first: int
    last: int
    role: str  # what its words say: plan, check, repair, or ""
    why: str  # those words
    formulas: list[Formula]
    new: list[int]  # numbers outside of formulas that neither question nor trace held before
    numbers: int  # how many there are
    fresh: bool  # whether a value comes out that was not there
    again: bool  # whether it computes what was computed before
    kind: str = ""  # plan, derive, check or prose, when it is decided


@dataclass(slots=True)
class Held:
    """The values that question and trace have held so far."""

    known: set[float]
    fractions: set[str]  # such as 1/4, which is then no computation
    computed: set[tuple[float, ...]] = field(default_factory=set)  # values of each equation


def held_by(question: str) -> Held:
    """What a question holds, for a trace to add to."""
    known, fractions = values_in(question)
    return Held(set(known), set(fractions))


@lru_cache(maxsize=1024)  # of several traces on a question, one after the other
def values_in(question: str) -> tuple[frozenset[float], frozenset[str]]:
    lexed = lex(question)
    return values_among(lexed, 0, len(lexed.types))


def held_by_all(questions: Sequence[str], lexicon: Lexicon) -> dict[str, tuple[frozenset[float], frozenset[str]]]:
    """Question -> what ``values_in`` finds."""
    distinct = list(dict.fromkeys(questions))
    lexed, bounds = lexicon(distinct)
    places = zip(distinct, bounds, bounds[1:], strict=False)
    return {question: values_among(lexed, first, after - 1) for question, first, after in places}


def values_among(lexed: Lexed, first: int, last: int) -> tuple[frozenset[float], frozenset[str]]:
    """The values of a question, tokens [first, last), and what is written as a fraction."""
    texts, codes = lexed.texts, lexed.codes
    known, fractions = {0.0}, set()
    for at in places_of(NUMBER_CODE, codes, first, last):
        known.add(signed(lexed, at, first))
        if at + 2 < last and texts[at + 1] == "/" and codes[at + 2] == NUMBER_CODE:
            fractions.add(f"{texts[at]}/{texts[at + 2]}")
    for match in OF_VALUE.finditer(codes, first, last):
        if texts[match.start()] in FACTORS:
            known.add(FACTORS[texts[match.start()]])
    return frozenset(known), frozenset(fractions)


def clauses_of(trace: str, lexed: Lexed, first: int, last: int, held: Held) -> Iterator[Clause]:
    """The clauses of a step, tokens [first, last); ``held`` learns their values."""
    for begin, end in pairwise([*bounds_of(lexed, first, last), last]):
        yield read(trace, lexed, begin, end, held, begin == first)


def bounds_of(lexed: Lexed, first: int, last: int) -> list[int]:
    """Where the clauses of a step begin."""
    types = lexed.types
    found, depth = [first], 0
    for match in BOUNDS.finditer(lexed.codes, first, last - 1):
        at = match.start()
        kind = types[at]
        if kind == STOP:
            if depth <= 0 and not is_ratio(lexed, at, first):
                found.append(at + 1)
        elif kind == OPEN:
            depth += 1
        elif kind == CLOSE:
            depth -= 1
        elif depth <= 0 and at - found[-1] > 2 and last - at > 2 and is_joint(lexed, at, last):
            found.append(at)
    return found


def is_joint(lexed: Lexed, at: int, last: int) -> bool:
    text = lexed.texts[at]
    return text in JOINTS and follows(lexed.texts, at, last, JOINTS[text]) is not None


def is_ratio(lexed: Lexed, at: int, first: int) -> bool:
    """``2:1``, and ``3,5`` where a comma was no part of a number."""
    types = lexed.types
    return at > first and types[at - 1] == types[at + 1] == NUMBER and lexed.starts[at + 1] == lexed.ends[at]


def read(trace: str, lexed: Lexed, first: int, last: int, held: Held, begins: bool) -> Clause:
    """A clause, and its values held. ``begins``: it begins the step."""
    texts, codes = lexed.texts, lexed.codes
    if PLAIN.fullmatch(codes, first, last):  # words alone
        role, why = said(lexed, first, last)
        return Clause(first, last, role, why, [], [], 0, False, False)
    values = {at: signed(lexed, at, first) for at in places_of(NUMBER_CODE, codes, first, last)}
    of_value = [texts[match.start()] for match in OF_VALUE.finditer(codes, first, last)]
    factors = [FACTORS[text] for text in of_value if text in FACTORS]
    role, why = said(lexed, first, last) if WORDS.search(codes, first, last) else ("", "")
    if not role and len(factors) < len(of_value):
        role, why = said_unspaced(trace[lexed.starts[first] : lexed.ends[last - 1]])
    found = formulas(lexed, first, last, held.known, values)
    found = [one for one in found if not is_given_fraction(lexed, one, held)]
    inside = {at for one in found for at in range(one.first, one.last)}
    known = held.known
    new = [at for at, value in values.items() if value not in known and at not in inside]
    if new:
        came_out = {values[at]: at for at in sorted(inside, reverse=True) if at in values}
        new = [at for at in new if came_out.get(values[at], at) >= at and is_value(lexed, at, first, begins)]
    if new and role == "plan" and not found and any(texts[at - 1] in YIELDS for at in new if at > first):
        role = ""
    fresh, again = bool(new), False
    for one in found:
        results = [value for at, value in values.items() if one.result <= at < one.last]
        fresh = fresh or not known.issuperset(results)
        key = tuple(sorted({value for at, value in values.items() if one.first <= at < one.last}))
        if len(key) > 2:
            again = again or key in held.computed
            if results:
                held.computed.add(key)
    known.update(values.values(), factors)
    if again and not fresh:  # with more words, it is another thing of the same size
        again = sum(match.start() not in inside for match in WORDS.finditer(codes, first, last)) <= BARE
    else:
        again = False
    return Clause(first, last, role, why, found, new, len(values), fresh, again)


def signed(lexed: Lexed, at: int, first: int) -> float:
    """The value of the number at ``at``, below zero with a dash before it that parts no operands."""
    value = value_of(lexed.texts[at])
    if at > first and lexed.texts[at - 1] in DASHES and lexed.ends[at - 1] == lexed.starts[at]:
        before = at - 2
        if before < first or lexed.types[before] in (SIGN, OPEN, MARK):
            return -value
        if lexed.types[before] in (WORD, STOP) and lexed.ends[before] < lexed.starts[at - 1]:
            return -value
    return value


def is_given_fraction(lexed: Lexed, one: Formula, held: Held) -> bool:
    """``1/4 of it``, as the question or an earlier clause has it."""
    if one.last - one.first != 3 or lexed.texts[one.first + 1] != "/":
        return False
    text = "".join(lexed.texts[one.first : one.last])
    given = text in held.fractions
    held.fractions.add(text)
    return given


def is_value(lexed: Lexed, at: int, first: int, begins: bool) -> bool:
    """Whether a number is a value: none that counts steps or items of a list, and no ``one`` in words."""
    text = lexed.texts[at]
    if at > first and lexed.texts[at - 1] in COUNTED:
        return False
    if begins and at == first and lexed.texts[at + 1 : at + 2] in (["."], [")"]):
        return lexed.starts[at + 1] > lexed.ends[at]
    return text[0].isdigit() or text[0] == "." or value_of(text) != 1


def said(lexed: Lexed, first: int, last: int) -> tuple[str, str]:
    """The role that a clause's words give it, and the words: check and repair win over plan."""
    types, texts = lexed.types, lexed.texts
    plan = ""
    at = first
    while at < last and types[at] in (OTHER, NUMBER, OPEN, STOP, CLOSE):
        at += 1
    for here in range(at, min(at + LEADS, last)):
        text = texts[here]
        if text in STARTS and (found := follows(texts, here, last, STARTS[text])):
            if found[1] != "plan_start":
                return found[1].removesuffix("_start"), found[0]
            plan = found[0]
        elif text in PLAN and (found := follows(texts, here, last, PLAN[text])):
            plan = found[0]
        if plan or text not in LEAD:
            break
    for match in SAID.finditer(lexed.codes, first, last):
        here = match.start()
        if found := follows(texts, here, last, ANYWHERE[texts[here]]):
            if found[1] != "plan_anywhere":
                return found[1], found[0]
            plan = plan or found[0]
    return ("plan", plan) if plan else ("", "")


def follows(texts: list[str], at: int, last: int, phrases: Phrases) -> tuple[str, str] | None:
    """The phrase that stands at ``at``, and its role."""
    for rest, role in phrases:
        end = at + 1 + len(rest)
        if end <= last and tuple(texts[at + 1 : end]) == rest:
            return " ".join(texts[at:end]), role
    return None


def said_unspaced(text: str) -> tuple[str, str]:
    """As ``said``, of a text without spaces between words."""
    for role, pattern in UNSPACED.items():
        if found := pattern.search(text):
            return role.removesuffix("_anywhere"), found[0]
    return "", ""
