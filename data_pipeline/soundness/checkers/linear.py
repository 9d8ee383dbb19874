"""What is linear in letters, read from tokens: chains of equality signs, and the polynomial of each side."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

from tracestill.data_pipeline.segmentation.lexer import (
    CLOSE,
    CURRENCY,
    LATEX,
    MARK,
    NUMBER,
    OPEN,
    OTHER,
    PERCENT,
    SIGN,
    STOP,
    TIME,
    WORD,
    Lexed,
)

LONGEST, DEEPEST = 80, 20  # tokens of a side; brackets
LETTERS = frozenset("xyznpqrstuvwfjdbABCDEHNPQRSTUVWXYZ")  # no article, no unit
ENDS = frozenset(  # words that no unit goes on with
    (
        *("and", "or", "so", "is", "are", "be", "which", "where", "that", "then", "if", "but", "as", "we", "get"),
        *("have", "has", "to", "in", "for", "by", "because", "thus", "hence", "therefore", "since", "when", "from"),
        *("equals", "equal", "gives", "means", "not"),
    )
)
SCALES = frozenset(["dozen", "dozens", "hundred", "thousand", "million", "billion", "half", "percent", "pair", "pairs"])
JOINS = frozenset(  # words that compute: ``40% of P``
    ["of", "times", "than", "twice", "half", "double", "triple", "minus", "plus", "by", "per", "over"]
)
TIMES = ("*", "×", "·", "⋅", "∙", "\\times", "\\cdot")
IMPLIES = ("\\implies", "\\Rightarrow", "\\rightarrow", "\\therefore", "\\iff", "\\to")
MINUS = ("-", "–", "−", "－")

Poly = dict[str, Fraction]  # letter -> factor; "" -> what stands alone
Side = tuple[Poly, int, int]  # and its characters [start, end)


class Unreadable(ValueError):
    """Not linear, or no expression."""


def plus(one: Poly, other: Poly, factor: int) -> Poly:
    """one + factor * other, without zeros."""
    total = {key: one.get(key, Fraction(0)) + factor * other.get(key, Fraction(0)) for key in {*one, *other}}
    return {key: value for key, value in total.items() if value}


def chains(text: str, lexed: Lexed) -> Iterator[list[tuple[int, int]]]:
    """Tokens [first, last) of the sides of each chain of equality signs."""
    sides: list[tuple[int, int]] = []
    begin = 0
    for at in range(len(lexed.types) + 1):
        if at == len(lexed.types) or is_break(text, lexed, at):
            if sides:
                yield [*sides, (begin, at)]
            sides, begin = [], at + (at < len(lexed.types) and not begins_line(text, lexed, at))
        elif lexed.types[at] == SIGN and lexed.texts[at] in ("=", "＝"):
            sides.append((begin, at))
            begin = at + 1


def begins_line(text: str, lexed: Lexed, at: int) -> bool:
    return at > 0 and "\n" in text[lexed.ends[at - 1] : lexed.starts[at]]


def is_break(text: str, lexed: Lexed, at: int) -> bool:
    kind, token = lexed.types[at], lexed.texts[at]
    if begins_line(text, lexed, at):
        return True
    if kind == LATEX:
        return token in IMPLIES
    return kind == STOP or (kind == OTHER and token in ".?!→⇒⟹∴") or (kind == SIGN and token in "<>≤≥≈")


def is_letter(text: str, lexed: Lexed, at: int) -> bool:
    """Whether a token stands for a value, and is neither word nor unit nor a sign of multiplication."""
    if lexed.types[at] != WORD or lexed.ends[at] - lexed.starts[at] != 1 or text[lexed.starts[at]] not in LETTERS:
        return False
    return lexed.texts[at] != "x" or not is_times(lexed, at)


def is_times(lexed: Lexed, at: int) -> bool:
    """Whether an x stands between two operands, apart from the first: ``5 x 3``."""
    if not 0 < at < len(lexed.types) - 1 or lexed.ends[at - 1] == lexed.starts[at]:
        return False
    before, after = lexed.types[at - 1], lexed.types[at + 1]
    return before in (NUMBER, CLOSE, WORD, PERCENT, MARK) and after in (NUMBER, OPEN, CURRENCY)


def suffix(text: str, lexed: Lexed, first: int, last: int) -> Side | None:
    """The polynomial that ends before a sign: the longest, with words before it.

    A lone number behind words (``section 2 =``, ``in 8 years =``) is a name.
    """
    for begin in range(max(first, last - LONGEST), last):
        if begin > first and not is_word(lexed, begin - 1):
            continue
        parser = Parser(text, lexed, begin, last)
        try:
            found = parser.sum(0)
        except Unreadable:
            continue
        if parser.at == last:
            named = begin > first and not {*found} - {""} and lexed.types[begin:last].count(NUMBER) < 2
            return None if named else (found, lexed.starts[begin], lexed.ends[last - 1])
    return None


def is_word(lexed: Lexed, at: int) -> bool:
    """Whether an expression may begin behind a token: a word of more than a letter, or an article."""
    if lexed.types[at] == MARK:
        return True
    text = lexed.texts[at]
    return lexed.types[at] == WORD and (len(text) > 1 or text == "a") and text not in JOINS


def prefix(text: str, lexed: Lexed, first: int, last: int) -> Side | None:
    """The polynomial that begins behind a sign, if nothing but words stand behind it."""
    parser = Parser(text, lexed, first, last)
    try:
        found = parser.sum(0)
    except Unreadable:
        return None
    if parser.at < last and not parser.at_words_end():
        return None
    return found, lexed.starts[first], lexed.ends[parser.at - 1]


class Parser:
    """A sum of products of tokens [at, last): numbers, letters, brackets, units skipped."""

    def __init__(self, text: str, lexed: Lexed, at: int, last: int) -> None:
        self.text, self.lexed, self.at, self.last = text, lexed, at, min(last, at + LONGEST)
        self.percent = False  # whether a percentage has been among the operands

    def peek(self) -> tuple[int, str]:
        return (self.lexed.types[self.at], self.lexed.texts[self.at]) if self.at < self.last else (0, "")

    def at_words_end(self) -> bool:
        """Whether words follow that no expression goes on with."""
        return self.peek()[0] == WORD and self.lexed.ends[self.at] - self.lexed.starts[self.at] > 1

    def sum(self, depth: int) -> Poly:
        kind, token = self.peek()
        total: Poly = {}
        factor = 1
        sorts = set[bool]()  # of terms: percentages and others have no sum
        if kind == SIGN and token in (*MINUS, "+"):
            self.at += 1
            factor = -1 if token != "+" else 1
        while True:
            before, self.percent = self.percent, False
            total = plus(total, self.product(depth), factor)
            sorts.add(self.percent)
            self.percent |= before
            if len(sorts) > 1:
                raise Unreadable
            kind, token = self.peek()
            if kind != SIGN or token not in (*MINUS, "+"):
                return total
            self.at += 1
            factor = 1 if token == "+" else -1

    def product(self, depth: int) -> Poly:
        value = self.operand(depth)
        while True:
            kind, token = self.peek()
            if (kind in (SIGN, LATEX) and token in TIMES) or (token == "x" and self.is_times()):
                self.at += 1
                value = times(value, self.operand(depth))
            elif kind == SIGN and token in ("/", "÷"):
                self.at += 1
                value = over(value, self.operand(depth))
            elif self.goes_on():
                value = times(value, self.operand(depth))
            else:
                return value

    def goes_on(self) -> bool:
        """Whether a factor follows without a sign: ``2(x + 1)``, ``2 x``."""
        kind = self.peek()[0]
        letter = kind == WORD and is_letter(self.text, self.lexed, self.at)
        if (kind == OPEN or letter) and self.touches():
            return True
        return letter and self.lexed.types[self.at - 1] in (NUMBER, CLOSE)

    def is_times(self) -> bool:
        return is_times(self.lexed, self.at)

    def touches(self) -> bool:
        return self.lexed.starts[self.at] == self.lexed.ends[self.at - 1]

    def operand(self, depth: int) -> Poly:
        kind, token = self.peek()
        if kind == SIGN and token in MINUS:
            self.at += 1
            return times({"": Fraction(-1)}, self.operand(depth))
        while kind in (CURRENCY, MARK):
            self.at += 1
            kind, token = self.peek()
        start = self.at
        self.at += 1
        if kind == NUMBER:
            value: Poly = {"": number(token)}
        elif kind == OPEN and depth < DEEPEST:
            value = self.sum(depth + 1)
            if self.peek()[0] != CLOSE:
                raise Unreadable
            self.at += 1
        elif kind == WORD and is_letter(self.text, self.lexed, start):
            value = {self.lexed.texts[start]: Fraction(1)}
        else:
            raise Unreadable
        if self.peek()[0] == PERCENT:
            self.at += 1
            self.percent = True
            value = {key: factor / 100 for key, factor in value.items()}
        self.units()
        if self.peek()[0] in (NUMBER, TIME, OTHER) or self.peek()[1] in ("^", "**"):
            raise Unreadable
        return {key: factor for key, factor in value.items() if factor}

    def units(self) -> None:
        """Skip words behind an operand that go on to a sign: ``5 apples + 3``."""
        at = self.at
        while at < self.last and at < self.at + 3 and self.lexed.types[at] == WORD and self.lexed.texts[at] not in ENDS:
            if len(self.lexed.texts[at]) == 1:
                return
            if self.lexed.texts[at] in SCALES:  # two dozen
                raise Unreadable
            at += 1
        if at == self.last or self.lexed.types[at] in (SIGN, CLOSE):
            self.at = at


def number(token: str) -> Fraction:
    if not token[0].isdigit() and token[0] != ".":
        raise Unreadable
    try:
        return Fraction(token.replace(",", ""))
    except ValueError as error:
        raise Unreadable from error


def times(one: Poly, other: Poly) -> Poly:
    if set(one) - {""} and set(other) - {""}:
        raise Unreadable
    if set(other) - {""}:
        one, other = other, one
    factor = other.get("", Fraction(0))
    return {key: value * factor for key, value in one.items() if factor}


def over(one: Poly, other: Poly) -> Poly:
    if set(other) != {""}:
        raise Unreadable
    return {key: value / other[""] for key, value in one.items()}
