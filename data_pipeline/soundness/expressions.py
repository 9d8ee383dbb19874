"""Arithmetic expressions in running text: tokens, and a recursive-descent evaluator that never calls ``eval``.

Grammar (words after a number or bracket are units and skipped):
    sum     = product (("+" | "-") product)*
    product = power (("*" | "/" | "mod" | "of") power)*
    power   = signed ("^" integer)?
    signed  = "-"* operand
    operand = number "(" sum ")" | number "%"? words? | "(" sum ")" words?
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

MAX_POWER = 64
MAX_BITS = 4096  # of a power
MAX_DIGITS = 40  # of a number; longer ones are identifiers
MAX_DEPTH = 20  # of brackets
LONG = 5  # decimals of this many places are taken as rounded

TOKEN = re.compile(
    r"""
    (?P<number>(?:[$€£¥₹]\s?)?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)(?:\s?%)?)
  | (?P<break>\n|[;?!](?=\s|$)|[.](?=\s|$)|,(?=\s|$)|(?<!\d):|:(?!\d)|[≠≈≤≥<>~]=?|!=|[=]>|→|⇒)
  | (?P<equals>={1,2})
  | (?P<operator>\*\*|[-+*/^×÷·−–]|\\(?:times|cdot|div)\b)
  | (?P<open>[(\[{])
  | (?P<close>[)\]}])
  | (?P<word>[^\W\d_]+(?:['’\-/][^\W\d_]+)*)
  | (?P<space>\s+)
  | (?P<unknown>.)
    """,
    re.X,
)
SIGNS = {"×": "*", "·": "*", "\\times": "*", "\\cdot": "*", "÷": "/", "\\div": "/", "−": "-", "–": "-", "**": "^"}
WORDS = {"times": "*", "x": "*", "X": "*", "plus": "+", "minus": "-", "mod": "mod", "modulo": "mod", "of": "of"}
ARTICLES = ("a", "A", "I")
MARKUP = (
    (re.compile(r"<<[^<>\n]*>>"), lambda m: " " * len(m[0])),  # GSM8K's calculator notes repeat the equation
    (re.compile(r"(?m)^[ \t]*(?:[-*•+]|\d{1,3}[.)])\s"), lambda m: " " * len(m[0])),  # list items
    (
        re.compile(
            r"(?<![\w)*\s])\*\*(?=\S)|(?<=\S)\*\*(?![\w(*\s])|^\*\*(?=\S)|(?<=\s)\*\*(?=\S)|(?<=\S)\*\*(?=\s|$)"
        ),
        lambda m: "  ",
    ),
    (re.compile(r"\\[(),;!\[\]]|\\(?=[$%])|\$(?![\s\d.])|\$(?=\s*(?:[.,;]|$))"), lambda m: " " * len(m[0])),
)


class Unreadable(ValueError):
    """The tokens do not begin with an expression."""


class Token(NamedTuple):
    type: str  # number, operator, equals, open, close, word, break, unknown
    text: str  # normalised: operators as + - * / ^ mod of; numbers without separators
    start: int
    end: int


@dataclass(frozen=True)
class Side:
    """A read expression: its values under each reading, and what comparing needs to know."""

    values: tuple[Fraction, ...]
    operations: int
    places: int  # decimal places: of the number itself if it is a lone one, else the most of any operand
    noise: Fraction  # relative error that its long decimals (LONG places or more) allow, as rounded numbers
    largest: Fraction  # operand, at least 1
    percent: bool
    path: str
    start: int
    end: int


def tokens_of(text: str) -> list[Token]:
    """Tokens of a text; offsets are those of the text. Markup is blanked first."""
    for pattern, blank in MARKUP:
        text = pattern.sub(blank, text)
    found: list[Token] = []
    for match in TOKEN.finditer(text):
        type_ = str(match.lastgroup)
        if type_ == "space":
            continue
        raw = match[0]
        token = Token(type_, SIGNS.get(raw, raw), match.start(), match.end())
        glued = bool(found) and found[-1].end == token.start
        if type_ == "number":
            token = Token(type_, re.sub(r"[$€£¥₹,\s]", "", raw), token.start, token.end)
            glued_word = glued and found[-1].type == "word" and found[-1].text not in ("x", "X")
            if glued_word:
                found[-1] = found[-1]._replace(type="unknown")  # an identifier such as a1
            if glued_word or len(raw) > MAX_DIGITS or (glued and found[-1].type in ("number", "unknown")):
                token = token._replace(type="unknown")
        elif type_ == "word" and glued and found[-1].type == "number" and len(raw) == 1 and raw not in ("x", "X"):
            token = token._replace(type="unknown")  # 2y: a variable, not a unit
        found.append(token)
    return [settled(found, at) for at in range(len(found))]


def settled(tokens: Sequence[Token], at: int) -> Token:
    """A token once its neighbours are known: words that are operators, variables, slashes of units."""
    token = tokens[at]
    before = tokens[at - 1] if at else None
    after = tokens[at + 1] if at + 1 < len(tokens) else None
    operand_follows = after is not None and after.type in ("number", "open")
    if token.type == "word":
        if len(token.text) > 1 and after is not None and after.text == "-" and at + 2 < len(tokens):
            operand_follows = tokens[at + 2].type == "number" and tokens[at + 2].start == after.end  # 5 times -3
        operand_before = before is not None and before.type in ("number", "close", "word")
        is_operation = (
            token.text != "of" or (before is not None and before.text.endswith("%")) or is_fraction(tokens, at)
        )
        if token.text in WORDS and operand_before and operand_follows and is_operation:
            return token._replace(type="operator", text=WORDS[token.text])
        if len(token.text) == 1 and token.text not in ARTICLES:
            return token._replace(type="unknown")
    if token.text in ("/", "-") and token.type == "operator" and before is not None and after is not None:
        unit_before = before.type in ("number", "word")
        if (
            after.type == "word"
            and len(after.text) > 1
            and unit_before
            and before.end == token.start
            and after.start == token.end
        ):
            return token._replace(type="word")  # $76/share, 45-minute
    return token


def is_fraction(tokens: Sequence[Token], at: int) -> bool:
    """Whether the two numbers before position ``at`` form a fraction such as 1/2."""
    return (
        at >= 3 and tokens[at - 1].type == "number" and tokens[at - 2].text == "/" and tokens[at - 3].type == "number"
    )


def evaluate(tokens: Sequence[Token]) -> tuple[Side, int]:
    """The longest expression at the beginning of ``tokens`` and how many of them it takes, units behind it included.

    Raises Unreadable if there is none, or one whose value is undefined or has no single meaning.
    """
    reader = Reader(tokens, tight=False)
    value = reader.sum()
    used = reader.skip_words()
    values = [value]
    if any(t.type == "operator" and t.text == "/" for t in tokens[:used]):
        with contextlib.suppress(Unreadable):
            values.append(Reader(tokens, tight=True).sum())
    last = max(at for at in range(used) if tokens[at].type != "word")
    taken = [token for token in tokens[:used] if token.type != "word"]
    lone = reader.operations == 0
    return (
        Side(
            tuple(dict.fromkeys(v for v, _ in values)),
            reader.operations,
            reader.places,
            Fraction(10) ** (1 - reader.fewest) if reader.fewest else Fraction(0),
            reader.largest,
            value[1],
            "".join(canonical(token) for token in taken),
            tokens[0].start,
            tokens[last].end if not lone else taken[-1].end,
        ),
        used,
    )


def canonical(token: Token) -> str:
    if token.type != "number":
        return token.text
    whole, _, places = token.text.removesuffix("%").partition(".")
    digits = f"{int(whole or 0)}.{places}".rstrip("0").rstrip(".") if places else str(int(whole))
    return digits + ("%" if token.text.endswith("%") else "")


Value = tuple[Fraction, bool]  # a number, and whether it is a percentage


class Reader:
    """One pass over the tokens. ``tight``: a fraction written without spaces binds tighter than other divisions."""

    def __init__(self, tokens: Sequence[Token], tight: bool) -> None:
        self.tokens = tokens
        self.tight = tight
        self.at = 0
        self.depth = 0
        self.operations = 0
        self.places = 0
        self.fewest = 0  # places of the shortest long decimal, 0 if there is none
        self.largest = Fraction(1)  # operand

    def peek(self, type_: str, *texts: str, ahead: int = 0) -> bool:
        at = self.at + ahead
        return at < len(self.tokens) and self.tokens[at].type == type_ and (not texts or self.tokens[at].text in texts)

    def starts_operand(self, ahead: int) -> bool:
        if self.peek("operator", "-", ahead=ahead):
            ahead += 1
        return self.peek("number", ahead=ahead) or self.peek("open", ahead=ahead)

    def skip_words(self) -> int:
        while self.peek("word"):
            self.at += 1
        return self.at

    def operator(self, *texts: str) -> str | None:
        """Step over one of these operators (and the units before it) if an operand follows it."""
        ahead = 0
        while self.peek("word", ahead=ahead):
            ahead += 1
        if not self.peek("operator", *texts, ahead=ahead) or not self.starts_operand(ahead + 1):
            return None
        self.at += ahead + 1
        self.operations += 1
        return self.tokens[self.at - 1].text

    def sum(self) -> Value:
        value, percent = self.product()
        while sign := self.operator("+", "-"):
            other, other_percent = self.product()
            if percent != other_percent:
                raise Unreadable("a percentage and a plain number")
            value = value + other if sign == "+" else value - other
        return value, percent

    def product(self) -> Value:
        value, percent = self.power()
        while sign := self.operator("*", "/", "mod", "of"):
            other, other_percent = self.power()
            if sign in ("*", "of"):
                value, percent = value * other, self.percent_of_product(percent, other_percent)
            elif other == 0:
                raise Unreadable("division by zero")
            elif sign == "/":
                value, percent = value / other, percent and not other_percent
            elif value.denominator != 1 or other.denominator != 1 or other < 0:
                raise Unreadable("mod of other than integers")
            else:
                value = value % other
        return value, percent

    @staticmethod
    def percent_of_product(left: bool, right: bool) -> bool:
        """50% * 50% and 0.3 * 100% are percentages; 20% * 50 is a plain number, and may be written 0.3 * 100% too."""
        return left and right

    def power(self) -> Value:
        value, percent = self.signed()
        if self.operator("^"):
            exponent, _ = self.signed()
            bits = (value.numerator.bit_length() + value.denominator.bit_length()) * abs(exponent)
            if exponent.denominator != 1 or abs(exponent) > MAX_POWER or bits > MAX_BITS or value == 0 or percent:
                raise Unreadable("a power out of range")
            value = value ** int(exponent)
        return value, percent

    def signed(self) -> Value:
        if self.peek("operator", "-"):
            self.at += 1
            value, percent = self.operand()
            return -value, percent
        return self.operand()

    def operand(self) -> Value:
        if self.peek("open"):
            return self.bracket()
        if not self.peek("number"):
            raise Unreadable("no operand")
        token = self.tokens[self.at]
        self.at += 1
        value, percent = number(token.text)
        places = len(token.text.removesuffix("%").partition(".")[2])
        self.places = max(self.places, places)
        self.largest = max(self.largest, value)
        if places >= LONG:
            self.fewest = min(self.fewest or places, places)
        if self.peek("open") and self.tokens[self.at].start == token.end:  # 2(24+7)
            self.operations += 1
            return value * self.bracket()[0], percent
        if self.tight and self.is_tight_fraction(token):
            self.operations += 1
            self.at += 2
            bottom = number(self.tokens[self.at - 1].text)[0]
            if bottom == 0:
                raise Unreadable("division by zero")
            return value / bottom, percent
        return value, percent

    def is_tight_fraction(self, top: Token) -> bool:
        if not (self.peek("operator", "/") and self.peek("number", ahead=1)):
            return False
        slash, bottom = self.tokens[self.at : self.at + 2]
        more = self.peek("operator", "/", ahead=2) and self.tokens[self.at + 2].start == bottom.end
        return top.end == slash.start and slash.end == bottom.start and not more

    def bracket(self) -> Value:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too many brackets")
        self.at += 1
        value = self.sum()
        self.skip_words()
        if not self.peek("close"):
            raise Unreadable("no closing bracket")
        self.at += 1
        self.depth -= 1
        return value


def number(text: str) -> Value:
    value = Fraction(text.removesuffix("%"))
    return (value / 100, True) if text.endswith("%") else (value, False)
