"""Powers, roots, logarithms and the like on exact numbers, with bounds on what a hostile text may ask for."""

from __future__ import annotations

import math
from fractions import Fraction

MAX_POWER = 64
MAX_BITS = 4096  # of a power
MAX_FACTORIAL = 30
FINE = Fraction(1, 10**12)  # relative error of what is no fraction
PI, PI_NOISE = Fraction("3.14159265358979"), Fraction(6, 10**4)  # 3.14 and 22/7 pass for it
SIMPLE, SIMPLE_LONG = (3, 6), (3, 6, 7, 9, 11, 12)  # denominators that decimals of two, of more places may stand for


class Unreadable(ValueError):
    """The tokens do not begin with an expression that has one value."""


def power(base: Fraction, exponent: Fraction) -> tuple[Fraction, Fraction]:
    """base ** exponent and its relative error; of fractional exponents only 1/2 to 1/9."""
    if exponent.denominator != 1:
        if exponent.numerator != 1 or exponent.denominator > 9 or base < 0 or bits(base) > MAX_BITS:
            raise Unreadable("a root out of range")
        return root(base, exponent.denominator)
    size = bits(base) * abs(exponent)
    if abs(exponent) > MAX_POWER or size > MAX_BITS or (base == 0 and exponent <= 0):
        raise Unreadable("a power out of range")
    return base ** int(exponent), Fraction(0)


def bits(value: Fraction) -> int:
    return value.numerator.bit_length() + value.denominator.bit_length()


def root(value: Fraction, degree: int) -> tuple[Fraction, Fraction]:
    """The root, exact where it is a fraction; else to 12 digits, with its relative error."""
    top, below = (integer_root(part, degree) for part in value.as_integer_ratio())
    if top**degree == value.numerator and below**degree == value.denominator:
        return Fraction(top, below), Fraction(0)
    try:
        return Fraction(float(value) ** (1 / degree)), FINE
    except (OverflowError, ValueError):
        raise Unreadable("a root out of range") from None


def integer_root(value: int, degree: int) -> int:
    """The largest integer whose power is at most ``value``."""
    if degree == 2:
        return math.isqrt(value)
    low, high = 0, 1 << (value.bit_length() // degree + 1)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**degree <= value else (low, middle - 1)
    return low


def apply(name: str, arguments: list[Fraction]) -> tuple[Fraction, Fraction]:
    """The value of a function and its relative error. Raises Unreadable where it has none."""
    first, rest = arguments[0], arguments[1:]
    if name in ("min", "max"):
        return (min if name == "min" else max)(arguments), Fraction(0)
    if name in ("gcd", "lcm"):
        if any(one.denominator != 1 for one in arguments):
            raise Unreadable(f"{name} of other than integers")
        return Fraction((math.gcd if name == "gcd" else math.lcm)(*map(int, arguments))), Fraction(0)
    if name == "round" and len(rest) == 1 and rest[0].denominator == 1 and abs(rest[0]) <= 20:
        return Fraction(round(first, int(rest[0]))), Fraction(0)
    if rest:
        raise Unreadable(f"{name} of several")
    if name == "factorial":
        if first.denominator != 1 or not 0 <= first <= MAX_FACTORIAL:
            raise Unreadable("a factorial out of range")
        return Fraction(math.factorial(int(first))), Fraction(0)
    if name in ("log", "lg", "ln"):
        if first <= 0 or bits(first) > 900:
            raise Unreadable("a logarithm out of range")
        return Fraction({"log": math.log10, "lg": math.log2, "ln": math.log}[name](first)), FINE
    if name == "cbrt":
        value, noise = root(abs(first), 3)
        return (value if first >= 0 else -value), noise
    if name == "round" and (first * 2).denominator == 1 and first.denominator == 2:
        raise Unreadable("a half is rounded up by some, to the even by others")
    if name == "int":
        return Fraction(math.trunc(first)), Fraction(0)
    if name == "floor":
        return Fraction(math.floor(first)), Fraction(0)
    if name in ("ceil", "ceiling"):
        return Fraction(math.ceil(first)), Fraction(0)
    if name == "round":
        return Fraction(round(first)), Fraction(0)
    if name == "abs":
        return abs(first), Fraction(0)
    raise Unreadable(name)


def simple_fraction(value: Fraction, places: int) -> Fraction | None:
    """The simple fraction that a decimal of so many places is, rounded or cut: 0.67 is 2/3, 1.33 is 4/3."""
    unit = Fraction(1, 10**places)
    for denominator in SIMPLE_LONG if places > 2 or (places == 2 and value >= 10) else SIMPLE:
        nearest = Fraction(round(value * denominator), denominator)
        error = nearest - value
        if nearest.denominator not in (1, 2, 4) and error and -unit / 2 <= error < unit:
            return nearest
    return None
