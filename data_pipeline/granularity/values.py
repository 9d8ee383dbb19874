"""Which units of a trace its answer depends on, by the values that they give and take.

A unit gives the values behind its equality signs and those that it is the first to hold; it takes every other number,
and the letters that stand for values. A value that is taken comes from the last unit before that gave it by computing,
or said that it follows; or else from the first one that held it, unless the question holds it. What comes from nowhere,
or is given in words alone, was made of the unit before. So the closure from the unit that gives the answer errs on the
side of more: a value that is given twice, or is also in the question, keeps its unit.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity.units import Unit
from tracestill.data_pipeline.segmentation.clauses import Clause, clauses_of, held_by
from tracestill.data_pipeline.segmentation.flow import decide
from tracestill.data_pipeline.segmentation.formulas import EQUALS, LETTER_WORDS, UNITS, is_variable
from tracestill.data_pipeline.segmentation.lexer import (
    CLOSE,
    CURRENCY,
    LATEX,
    LATEX_SIGNS,
    MARK,
    NUMBER,
    OPEN,
    SIGN,
    STOP,
    WORD,
    Lexed,
    lex,
    value_of,
)
from tracestill.data_pipeline.segmentation.words import OPERATORS, of_all

NEAR = 5e-3  # relative difference of a value that was rounded on the way
SCALES = (100.0, 0.01)  # cents and dollars, percent and share
BEFORE_A_VALUE = (CURRENCY, OPEN)
SIGNS = ("-", "−", "–")
ORDINAL = re.compile(r"(\d+)(?:st|nd|rd|th)")
CONCLUDES = of_all("concludes")
LOOKED_AT = 64
SIDE = 80  # tokens of a side of an equation that are looked at
SHORT = 3  # tokens of a clause that only leads on
COMMON = 12.0  # up to which a value may be anybody's: months, a dozen
CONSTANTS = {24.0, 30.0, 31.0, 52.0, 60.0, 90.0, 100.0, 180.0, 360.0, 365.0, 1000.0}
COMPARISONS = ("<", ">", "≤", "≥")


@dataclass(slots=True)
class Flow:
    """What a unit does with values."""

    gives: set[float] = field(default_factory=set)
    holds: set[float] = field(default_factory=set)
    tells: set[float] = field(default_factory=set)  # that follow from something: ``so it lasts 3 hours``
    takes: Counter[float] = field(default_factory=Counter)  # before it gives them itself
    parts: set[float] = field(default_factory=set)  # fractions that it takes
    names: set[str] = field(default_factory=set)  # letters that stand for a value
    checks: bool = False
    computes: bool = False
    compares: bool = False


def flows_of(record: Record, units: Sequence[Unit]) -> list[Flow]:
    """The flow of each unit."""
    lexed, held = lex(record.trace), held_by(record.question)
    found = []
    first = 0
    for unit in units:
        while first < len(lexed.starts) and lexed.starts[first] < unit.body:
            first += 1  # the mark of a list is no value
        last = first
        while last < len(lexed.starts) and lexed.starts[last] < unit.end:
            last += 1
        clauses = list(clauses_of(record.trace, lexed, first, last, held)) if first < last else []
        if clauses:
            decide(lexed, clauses)
        found.append(flow_of(lexed, first, last, clauses))
        first = last
    return found


def flow_of(lexed: Lexed, first: int, last: int, clauses: Sequence[Clause]) -> Flow:
    flow = Flow()
    results = {at for clause in clauses for one in clause.formulas for at in range(one.result, one.last)}
    results |= {at for clause in clauses for at in clause.new}
    formulas = {at for clause in clauses for one in clause.formulas for at in range(one.first, one.last)}
    flow.computes = bool(formulas)
    flow.compares = any(lexed.texts[at] in COMPARISONS for at in range(first, last))
    flow.checks = any(clause.role in ("check", "repair") for clause in clauses) and not any(c.fresh for c in clauses)
    concludes = False
    for clause in clauses:
        short = clause.last - clause.first <= SHORT  # ``Therefore,``
        begins = lexed.texts[clause.first] in CONCLUDES
        if begins or concludes:
            numbers = (at for at in range(clause.first, clause.last) if lexed.types[at] == NUMBER)
            flow.tells.update(abs(value_of(lexed.texts[at])) for at in numbers)
        concludes = begins and short
    for at in range(first, last):
        if lexed.types[at] == MARK:
            take(flow, lex(lexed.texts[at].strip("<>")))
        elif lexed.types[at] == NUMBER:
            value = abs(value_of(lexed.texts[at]))
            flow.holds.add(value)
            if is_head(lexed, at, last):  # 3 000
                flow.gives.add(value * 1000 + value_of(lexed.texts[at + 1]))
            if (part := fraction_at(lexed, at, last)) is not None:  # ``= 8/5 ounces``
                flow.holds.add(part)
                if behind_equals(lexed, at, first) and not is_operand(lexed, at + 2, last):
                    flow.gives.add(part)
                elif part not in flow.gives:
                    flow.parts.add(part)
            gives = at in results or (behind_equals(lexed, at, first) and not is_operand(lexed, at, last))
            if (not gives or demanded(lexed, at, first)) and value not in flow.gives:
                flow.takes[value] += 1
            if gives:
                flow.gives.add(value)
        elif ordinal := ORDINAL.fullmatch(lexed.texts[at]):  # ``1 + 5 = 6th``
            flow.holds.add(float(ordinal[1]))
            if behind_equals(lexed, at, first):
                flow.gives.add(float(ordinal[1]))
        elif is_name(lexed, at, first, last):
            flow.names.add(lexed.texts[at])
    return flow


def take(flow: Flow, mark: Lexed) -> None:
    """The values of GSM8K's <<48/2=24>>."""
    for at, kind in enumerate(mark.types):
        if kind == NUMBER:
            value = abs(value_of(mark.texts[at]))
            flow.holds.add(value)
            if behind_equals(mark, at, 0):
                flow.gives.add(value)
            elif value not in flow.gives:
                flow.takes[value] += 1


def behind_equals(lexed: Lexed, at: int, first: int) -> bool:
    before, first = at - 1, max(first, at - SIDE)
    while before >= first and (lexed.types[before] in BEFORE_A_VALUE or lexed.texts[before] in SIGNS):
        before -= 1
    return before >= first and (lexed.texts[before] in (*EQUALS, "≈", "\\approx"))


def is_operand(lexed: Lexed, at: int, last: int) -> bool:
    """Whether an operator follows a number, behind its unit: ``= 5 apples + 3``."""
    for following in range(at + 1, min(at + 1 + UNITS, last)):
        text, kind = lexed.texts[following], lexed.types[following]
        if kind in (NUMBER, STOP, LATEX) or text in EQUALS or text == ".":
            return kind == LATEX and text in LATEX_SIGNS
        if text == "/" and lexed.types[following + 1 : following + 2] == [WORD]:
            continue  # km/h
        if kind == SIGN or text in OPERATORS or (text == "x" and kind == WORD):
            return True
    return False


def fraction_at(lexed: Lexed, at: int, last: int) -> float | None:
    """The value of a fraction written without spaces, whose first number stands at ``at``."""
    if at + 2 >= last or lexed.texts[at + 1] != "/" or lexed.types[at + 2] != NUMBER:
        return None
    tight = lexed.ends[at] == lexed.starts[at + 1] and lexed.ends[at + 1] == lexed.starts[at + 2]
    below = abs(value_of(lexed.texts[at + 2]))
    above = abs(value_of(lexed.texts[at]))
    return above / below if tight and below and above % below else None  # 70/2 is computed, and no value as it stands


def is_head(lexed: Lexed, at: int, last: int) -> bool:
    """Whether a number goes on behind a space: ``3 000``."""
    if at + 1 >= last or lexed.types[at + 1] != NUMBER or lexed.starts[at + 1] - lexed.ends[at] != 1:
        return False
    head, rest = lexed.texts[at], lexed.texts[at + 1]
    return len(head) <= 3 and len(rest) == 3 and (head + rest).isdecimal()


def demanded(lexed: Lexed, at: int, first: int) -> bool:
    """Whether the side before a value's equality sign is a term with letters: ``2x + 3y =`` asks for what is known."""
    first = max(first, at - SIDE)
    while at > first and lexed.texts[at] not in (*EQUALS, "≈", "\\approx"):
        at -= 1
    names, others = False, False
    for before in range(at - 1, first - 1, -1):
        if lexed.types[before] == STOP or lexed.texts[before] in EQUALS:
            break
        if is_name(lexed, before, first, at):
            names = True
        elif lexed.types[before] in (NUMBER, SIGN):
            others = True
    return names and others


def is_name(lexed: Lexed, at: int, first: int, last: int) -> bool:
    """Whether a token is a letter that stands for a value, and no article or sign of multiplication."""
    if not is_variable(lexed, at):
        return False
    near = [i for i in (at - 1, at + 1) if first <= i < last]
    if lexed.texts[at] in LETTER_WORDS and not any(is_sign(lexed, i) for i in near):
        return False
    sign = len(near) == 2 and all(lexed.types[i] in (NUMBER, CURRENCY, OPEN, CLOSE, LATEX) for i in near)
    return lexed.texts[at] != "x" or not sign


def is_sign(lexed: Lexed, at: int) -> bool:
    return lexed.types[at] == SIGN or lexed.texts[at] in EQUALS


class Origins:
    """Where the values of a trace come from. Of units that hold a value the nearest ``LOOKED_AT`` are looked at."""

    def __init__(self, flows: Sequence[Flow], given: set[float]) -> None:
        """``given``: the values of the question."""
        self.flows, self.given = flows, given
        self.gave: dict[float, list[int]] = {}
        self.told: dict[float, list[int]] = {}
        self.held: dict[float, int] = {}  # the first unit that holds a value
        self.named: dict[str, list[int]] = {}
        self.compared = [at for at, flow in enumerate(flows) if flow.compares]
        for at, flow in enumerate(flows):
            for value in flow.gives:
                self.gave.setdefault(value, []).append(at)
            for value in flow.tells:
                self.told.setdefault(value, []).append(at)
            for value in flow.holds:
                self.held.setdefault(value, at)
            for name in flow.names:
                self.named.setdefault(name, []).append(at)

    def of_unit(self, at: int) -> set[int]:
        """The units before ``at`` that its values come from."""
        flow, found = self.flows[at], set[int]()
        for value, times in [*flow.takes.items(), *((part, 1) for part in flow.parts)]:
            origins = self.of_value(at, value, times)
            for source in origins:
                chosen = (i for i in nearest(self.compared, at) if i > source and value in self.flows[i].holds)
                found |= {source, *chosen}  # ``16 < 18``
            anybodys = value in CONSTANTS or (value <= COMMON and value not in flow.parts)
            if not origins and at > 0 and value not in self.given and not anybodys:
                found.add(at - 1)
        for name in flow.names:  # the one before, which has it from the one before that
            found.update(nearest(self.named[name], at)[:1])
        alone = not flow.takes and not flow.parts
        if flow.gives - self.given and (alone or not flow.computes) and not found and at > 0:
            found.add(at - 1)  # ``rounded down, she gets 2``, ``the total = 62``
        return found

    def of_value(self, at: int, value: float, times: int) -> list[int]:
        """Where a value comes from that a unit takes so many times: from as many units, if so many gave it."""
        gave = nearest(self.gave.get(value, ()), at)
        computed: dict[frozenset[float], int] = {}  # what is computed otherwise is another thing of the same size
        for i in gave:
            if self.flows[i].computes and not self.flows[i].checks:
                computed.setdefault(frozenset(self.flows[i].takes), i)
        told = [*gave, *nearest(self.told.get(value, ()), at)]
        ranked = list(dict.fromkeys([*computed.values(), *(i for i in told if not self.flows[i].checks)]))
        if ranked:
            return ranked[: max(times, len(computed))]
        if gave:
            return gave[:1]
        if value in self.given:
            return []
        if self.held.get(value, at) < at:
            return [self.held[value]]
        before = range(at - 1, max(at - 1 - LOOKED_AT, -1), -1)  # rounded, or in other units
        return [i for i in before if any(alike(value, other) for other in self.flows[i].gives)][:1]


def nearest(places: Sequence[int], at: int) -> list[int]:
    """Of increasing places those before ``at``, the nearest first."""
    end = bisect_left(places, at)
    return list(places[max(end - LOOKED_AT, 0) : end][::-1])


def alike(value: float, other: float) -> bool:
    if any(abs(value - other * scale) <= 1e-9 * value for scale in SCALES):
        return True
    return value != int(value) and abs(value - other) <= NEAR * max(value, other)


def closure(units: Sequence[Unit], flows: Sequence[Flow], record: Record, start: int) -> dict[int, int]:
    """Units on which the one at ``start`` depends -> how many steps away they are; itself at 0."""
    held = held_by(record.question)
    given = {abs(value) for value in held.known} | {a / b for a, b in map(terms, held.fractions) if b}
    origins = Origins(flows, given)
    found, waiting = {start: 0}, [start]
    for at in waiting:
        for other in origins.of_unit(at) | units[at].needs:
            if other not in found:
                found[other] = found[at] + 1
                waiting.append(other)
    return found


def terms(fraction: str) -> tuple[float, float]:
    above, below = fraction.split("/")
    return value_of(above), value_of(below)


def answer_value(answer: str) -> float | None:
    """The one number that an answer gives; None if it gives none or several."""
    lexed = lex(answer)
    numbers = [abs(value_of(text)) for kind, text in zip(lexed.types, lexed.texts, strict=True) if kind == NUMBER]
    return numbers[0] if len(numbers) == 1 else None


def concluding(record: Record, units: Sequence[Unit], flows: Sequence[Flow]) -> int | None:
    """The unit that gives the answer: the last that says so, or if it only says it again, the one that computed it.
    None if none does, or the trace goes on to compute something else."""
    value = answer_value(record.answer)
    if value is None:
        said = record.answer.strip().casefold()
        texts = [record.trace[unit.body : unit.end].casefold() for unit in units]
        return max((at for at, text in enumerate(texts) if said and stands_in(said, text)), default=None)
    held = [at for at, flow in enumerate(flows) if value in flow.holds]
    if not held or any(flow.computes and flow.gives and not flow.checks for flow in flows[held[-1] + 1 :]):
        return None
    last = next((at for at in reversed(held) if not flows[at].checks), held[-1])
    computed = [at for at in held if at < last and flows[at].computes and value in flows[at].gives]
    computed = [at for at in computed if not flows[at].checks]
    if flows[last].computes or flows[last].compares or not computed:
        return last
    between = flows[computed[-1] + 1 : last]
    return last if any(flow.computes and not flow.checks for flow in between) else computed[-1]


def stands_in(word: str, text: str) -> bool:
    """Whether a text holds a word, not as a part of another one."""
    at = text.find(word)
    while at >= 0:
        before, after = text[at - 1 : at] if at else "", text[at + len(word) : at + len(word) + 1]
        if not ((word[0].isalnum() and before.isalnum()) or (word[-1].isalnum() and after.isalnum())):
            return True
        at = text.find(word, at + 1)
    return False
