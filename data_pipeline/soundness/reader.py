"""Arithmetic expressions: a recursive-descent evaluator over tokens that never calls ``eval``.

Grammar (words behind an operand are its unit):
    sum     = product (("+" | "-") product)*
    product = signed (("*" | "/" | "//" | "mod" | "of" | ":") signed)*
    signed  = "-"* power
    power   = operand "!"? ("^" signed)?
    operand = number "(" sum ")" | number ("and"? number "/" number)? unit? | "(" sum ")" unit? | function

What has more than one usual reading is read in the plain one, and the names of others that could apply are noted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import NamedTuple

from tracestill.data_pipeline.soundness.functions import PI, PI_NOISE, Unreadable, apply, power, simple_fraction
from tracestill.data_pipeline.soundness.tokens import CLAUSE, Token

MAX_DEPTH = 20  # of brackets
LONG = 5  # decimals of this many places are taken as rounded
PER = ("/", "per", "a", "an", "each", "every", "pro", "je", "par", "cada")

# The other usual readings, by name.
TIGHT = "a fraction written without spaces binds tighter"
LOOSE = "a / b / c is a / (b / c)"
SIGN = "a sign belongs to the base of a power"
APART = "a product without a sign binds like one with it"
POINTS = "separators of thousands and decimals of the other convention"
BARE = "100% stands for 100"
PARTS = "a rounded decimal stands for a simple fraction"
NATURAL, BINARY = "log is natural", "log is binary"
CONVERTED = "units converted"


class Value(NamedTuple):
    number: Fraction
    percent: bool = False
    size: Fraction | None = None  # of its unit, where units count


@dataclass(frozen=True)
class Reading:
    """Which readings other than the plain one are taken; sizes of units by word, empty where units do not count."""

    names: frozenset[str] = frozenset()
    sizes: Mapping[str, Fraction] = field(default_factory=dict)


PLAIN = Reading()


class Outcome(NamedTuple):
    """The value of an expression under one reading."""

    number: Fraction
    percent: bool
    size: Fraction | None  # of the unit of a lone number
    noise: Fraction  # relative error that long decimals (LONG places or more) allow, as rounded numbers
    largest: Fraction  # operand, at least 1
    uneven: bool  # a sum of operands with and without a unit


class Reader:
    """One pass over the tokens, by one reading."""

    def __init__(self, tokens: Sequence[Token], reading: Reading) -> None:
        self.tokens = tokens
        self.names, self.sizes = reading.names, reading.sizes
        self.at = 0
        self.depth = 0
        self.operations = 0
        self.places = 0
        self.fewest = 0  # places of the shortest long decimal, 0 if there is none
        self.noise = Fraction(0)
        self.largest = Fraction(1)  # operand
        self.uneven = False
        self.could: set[str] = set()

    def outcome(self) -> Outcome:
        value = self.sum()
        noise = max(self.noise, Fraction(10) ** (1 - self.fewest) if self.fewest else Fraction(0))
        return Outcome(value.number, value.percent, value.size, noise, self.largest, self.uneven)

    def peek(self, type_: str, *texts: str, ahead: int = 0) -> bool:
        at = self.at + ahead
        return at < len(self.tokens) and self.tokens[at].type == type_ and (not texts or self.tokens[at].text in texts)

    def starts_operand(self, ahead: int) -> bool:
        if self.peek("operator", "-", ahead=ahead):
            ahead += 1
        at = self.at + ahead
        return at < len(self.tokens) and self.tokens[at].type in ("number", "open", "function", "pi", "time")

    def words(self) -> int:
        """How many words of a unit stand here."""
        at = self.at
        while at < len(self.tokens) and self.tokens[at].type == "word" and self.tokens[at].text not in CLAUSE:
            at += 1
        return at - self.at

    def skip_words(self) -> int:
        self.at += self.words()
        return self.at

    def operator(self, *texts: str) -> str | None:
        """Step over one of these operators (and the units before it) if an operand follows it."""
        ahead = self.words()
        if not self.peek("operator", *texts, ahead=ahead) or not self.starts_operand(ahead + 1):
            return None
        self.at += ahead + 1
        self.operations += 1
        return self.tokens[self.at - 1].text

    def sum(self) -> Value:
        value = self.product()
        while sign := self.operator("+", "-"):
            other = self.product()
            if value.percent != other.percent:
                raise Unreadable("a percentage and a plain number")
            if self.sizes and (value.size is None) != (other.size is None):
                self.uneven = True
            number = value.number + other.number if sign == "+" else value.number - other.number
            value = Value(number, value.percent, value.size or other.size)
        return value

    def product(self) -> Value:
        value = self.signed()
        divided = False
        while True:
            before = self.tokens[self.at - 1]
            joins = APART in self.names or before.type in ("close", "pi")
            pi = before.type == "pi" or (before.type == "close" and self.peek("pi"))  # \frac{4}{3}\pi (3)^3
            open_ = self.peek("open") and (
                self.tokens[self.at].start == before.end or (pi and not self.peek("number", "3.14", ahead=1))
            )
            if (joins and open_) or (pi and self.peek("pi")):
                self.operations += 1
                value = Value(value.number * self.power(1).number, value.percent, value.size)  # 2(3)^2
                continue
            sign = self.operator("*", "/", "//", "mod", "of", ":")
            if sign is None:
                return value
            other = self.signed()
            if sign in "/:":
                if divided:
                    self.could.add(LOOSE)
                if LOOSE in self.names and self.operator("/"):
                    below = self.signed()
                    if below.number == 0:
                        raise Unreadable("division by zero")
                    other = Value(other.number / below.number, other.percent, other.size)
                self.could.add(TIGHT)
                divided = True
            value = self.combined(value, sign, other)

    def combined(self, value: Value, sign: str, other: Value) -> Value:
        size = value.size or other.size
        if sign in ("*", "of"):
            if any(one.percent and one.number == 1 for one in (value, other)):
                self.could.add(BARE)
            # 50% * 50% and 0.3 * 100% are percentages; 20% * 50 is a plain number, and may be written 0.3 * 100% too
            return Value(value.number * other.number, value.percent and other.percent, size)
        if other.number == 0:
            raise Unreadable("division by zero")
        if sign in "/:":
            if other.percent:
                self.could.add(BARE)
            return Value(value.number / other.number, value.percent and not other.percent, size)
        if sign == "//":
            return Value(Fraction(value.number // other.number), False, size)
        if value.number.denominator != 1 or other.number.denominator != 1 or other.number < 0:
            raise Unreadable("mod of other than integers")
        return Value(value.number % other.number)

    def signed(self) -> Value:
        if not self.peek("operator", "-"):
            return self.power(1)
        self.at += 1
        if self.peek("operator", "-"):
            raise Unreadable("two signs")
        value = self.power(-1 if SIGN in self.names else 1)
        return value if SIGN in self.names else value._replace(number=-value.number)

    def power(self, sign: int) -> Value:
        value = self.operand()
        value = value._replace(number=sign * value.number)
        if self.peek("factorial"):
            self.at += 1
            self.operations += 1
            value = Value(apply("factorial", [value.number])[0])
        if self.operator("^"):
            self.could.add(SIGN)
            exponent = self.signed()
            if value.percent:
                raise Unreadable("a power of a percentage")
            number, noise = power(value.number, exponent.number)
            self.noise = max(self.noise, noise)
            value = Value(number, False, value.size)
        return value

    def operand(self) -> Value:
        if self.peek("open"):
            return self.sized(self.bracket())
        if self.peek("function"):
            return self.sized(self.function())
        if self.peek("pi"):
            self.at += 1
            self.noise = max(self.noise, PI_NOISE)
            return Value(PI)
        if self.peek("time"):
            parts = [int(part) for part in self.tokens[self.at].text.split(":")]
            self.at += 1
            return Value(parts[0] + Fraction(parts[1], 60) + Fraction(parts[2] if parts[2:] else 0, 3600))  # hours
        if not self.peek("number"):
            raise Unreadable("no operand")
        return self.number_operand()

    def number_operand(self) -> Value:
        token = self.tokens[self.at]
        self.at += 1
        text = token.text
        if token.other:
            self.could.add(POINTS)
            text = token.other if POINTS in self.names else text
        value, percent = number(text)
        places = len(text.removesuffix("%").partition(".")[2])
        self.places = max(self.places, places)
        self.largest = max(self.largest, value)
        if places >= LONG:
            self.fewest = min(self.fewest or places, places)
        elif (places >= 2 or percent or (places and value >= 10)) and (
            simple := simple_fraction(value, places + 2 * percent)
        ) is not None:
            self.could.add(PARTS)
            value = simple if PARTS in self.names else value
        if percent and BARE in self.names:
            value, percent = value * 100, False
        if part := self.mixed(token):
            value += part
        elif self.peek("open") and self.tokens[self.at].start == token.end:  # 2(24+7)
            self.could.add(APART)
            if APART not in self.names:
                self.operations += 1
                return Value(value * self.power(1).number, percent)
        elif TIGHT in self.names and self.is_tight_fraction(token):
            self.operations += 1
            self.at += 2
            bottom = number(self.tokens[self.at - 1].text)[0]
            if bottom == 0:
                raise Unreadable("division by zero")
            value /= bottom
        elif TIGHT in self.names and self.is_scientific():
            self.operations += 1
            self.at += 1
            value *= self.power(1).number
        if self.peek("pi") and self.tokens[self.at].start == token.end:  # 25π
            self.at += 1
            self.operations += 1
            self.noise = max(self.noise, PI_NOISE)
            value *= PI
        return self.sized(Value(value, percent), token)

    def mixed(self, whole: Token) -> Fraction | None:
        """``1 1/2`` and ``1 and 1/2``: the fraction behind a whole number."""
        ahead = 1 if self.peek("word", "and") else 0
        if not (self.peek("number", ahead=ahead) and whole.text.isdigit()):
            return None
        top = self.tokens[self.at + ahead].text
        if "/" in top and not ahead:
            self.at += 1
            return Fraction(top)
        if not (self.peek("operator", "/", ahead=ahead + 1) and self.peek("number", ahead=ahead + 2)):
            return None
        slash, below = self.tokens[self.at + ahead + 1 : self.at + ahead + 3]
        if not (top.isdigit() and below.text.isdigit() and slash.end == below.start and 0 < int(top) < int(below.text)):
            return None
        self.at += ahead + 3
        return Fraction(int(top), int(below.text))

    def is_tight_fraction(self, top: Token) -> bool:
        if not (self.peek("operator", "/") and self.peek("number", ahead=1)):
            return False
        slash, bottom = self.tokens[self.at : self.at + 2]
        more = self.peek("operator", "/", ahead=2) and self.tokens[self.at + 2].start == bottom.end
        return top.end == slash.start and slash.end == bottom.start and not more

    def is_scientific(self) -> bool:
        """Whether a power of ten belongs to the number before it: ``6 × 10^8 / 3 × 10^5``."""
        return self.peek("operator", "*") and self.peek("number", "10", ahead=1) and self.peek("operator", "^", ahead=2)

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

    def function(self) -> Value:
        name = self.tokens[self.at].text
        self.at += 1
        self.operations += 1
        if name == "frac":
            top, below = self.group(), self.group()
            if below.number == 0:
                raise Unreadable("division by zero")
            return Value(top.number / below.number)
        root = 2
        if name == "sqrt" and self.peek("open", "["):
            degree = self.bracket().number
            root = int(degree) if degree.denominator == 1 and 2 <= degree <= 9 else 0
        if name == "log":
            self.could |= {NATURAL, BINARY}
            name = "ln" if NATURAL in self.names else "lg" if BINARY in self.names else name
        arguments = [self.group()] if not self.peek("open", "(") else self.arguments()
        if name == "sqrt":
            number_, noise = power(arguments[0].number, Fraction(1, root) if root else Fraction(0))
        else:
            number_, noise = apply(name, [one.number for one in arguments])
        self.noise = max(self.noise, noise)
        return Value(number_, False, arguments[0].size)

    def group(self) -> Value:
        """``{…}``, ``(…)`` or a number without a sign: what a command of LaTeX takes."""
        if self.peek("open"):
            return self.bracket()
        if self.peek("number"):
            self.at += 1
            return Value(*number(self.tokens[self.at - 1].text))
        raise Unreadable("no argument")

    def arguments(self) -> list[Value]:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("too many brackets")
        found = []
        while True:
            self.at += 1
            found.append(self.sum())
            self.skip_words()
            if self.peek("close"):
                self.at += 1
                self.depth -= 1
                return found
            if not self.peek("break", ",") or len(found) > 20:
                raise Unreadable("no closing bracket")

    def sized(self, value: Value, token: Token | None = None) -> Value:
        """The value times the size of the unit behind it, where units count."""
        if not self.sizes:
            return value
        above, below = self.sizes.get(token.unit) if token is not None and token.unit else None, None
        divides = False
        for word in self.tokens[self.at : self.at + self.words()]:
            for part in re.split(r"(/)", word.text):
                if part.lower() in PER:
                    divides = True
                    continue
                size = size_of(part, self.sizes)
                if size is not None and divides and below is None:
                    below = size
                elif size is not None and not divides and above is None:
                    above = size
        if above is None and below is None:
            return value
        size = (above or Fraction(1)) / (below or 1)
        return Value(value.number * size, value.percent, size)


def size_of(word: str, sizes: Mapping[str, Fraction]) -> Fraction | None:
    """The size of a unit's word, ``cm^2`` by the square of its own."""
    name, _, exponent = word.replace("²", "^2").replace("³", "^3").partition("^")
    size = sizes.get(name)
    digits = exponent.strip("{}-")
    return size ** int(digits) if size is not None and digits.isdigit() else size


def number(text: str) -> tuple[Fraction, bool]:
    value = Fraction(text.removesuffix("%"))
    return (value / 100, True) if text.endswith("%") else (value, False)
