"""Units of measure, exact: factors as fractions, and how the words behind a number say them.

A short table, and no library: pint computes in floats unless told otherwise, takes half a second to import, and knows
no "apples"; what answers to questions need is a few dozen names.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

# dimension -> names of each unit, and how many of the first one it is
TABLE: Mapping[str, Mapping[str, str]] = {
    "length": {
        "m metre meter": "1", "mm millimetre millimeter": "1/1000", "cm centimetre centimeter": "1/100",
        "dm decimetre decimeter": "1/10", "km kilometre kilometer": "1000", "in inch inches": "0.0254",
        "ft foot feet": "0.3048", "yd yard": "0.9144", "mi mile": "1609.344",
    },
    "mass": {
        "g gram gramme": "1", "mg milligram": "1/1000", "kg kilogram kilo": "1000", "tonne": "1000000",
        "oz ounce": "28.349523125", "lb lbs pound": "453.59237",
    },
    "time": {
        "s sec second": "1", "ms millisecond": "1/1000", "min minute": "60", "h hr hrs hour": "3600", "day": "86400",
        "week": "604800",
    },
    "months": {"month": "1", "yr year": "12", "decade": "120", "century centuries": "1200"},
    "volume": {
        "l L liter litre": "1", "ml mL milliliter millilitre": "1/1000", "cl cL centiliter centilitre": "1/100",
        "gal gallon": "3.785411784", "quart": "0.946352946", "pint": "0.473176473", "cup": "0.2365882365",
    },
    "dollars": {"$ dollar USD buck": "1", "¢ cent": "1/100"},
    "euros": {"€ euro EUR": "1"}, "sterling": {"£ GBP": "1"}, "yen": {"¥ yen JPY": "1"}, "rupees": {"₹ rupee INR": "1"},
    "angle": {"° deg degree": "1"},
    "power": {"W watt": "1", "mW milliwatt": "1/1000", "kW kilowatt": "1000", "MW megawatt": "1000000"},
    "frequency": {"Hz hertz": "1", "kHz kilohertz": "1000", "MHz megahertz": "1000000", "GHz gigahertz": "1000000000"},
}  # fmt: skip
SYMBOLS = 3  # letters; a name so short is told apart by case ("m" and no "M"), and has no plural
POWER = re.compile(r"\^\(?(-?\d)\)?\Z|(?<=[a-z])([23])\Z")
SHOUTED = frozenset({"kg", "km", "cm", "lb", "lbs", "oz", "ft", "hr", "hrs", "min", "sec"})  # "KG" can be no other
SPEED = re.compile(r"\bmph\b|\bk(?:mh|ph|m/h)\b")
SQUARED = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
SPLIT = re.compile(r"\s+per\s+|\s*/\s*")


class Unit(NamedTuple):
    """Powers of dimensions (a noun is a dimension of its own), and how many of the basic unit it is."""

    dimensions: tuple[tuple[str, int], ...]
    factor: Fraction
    known: bool  # every part of it stands in the table
    words: frozenset[str]


def _names() -> Iterator[tuple[str, tuple[str, Fraction]]]:
    for dimension, units in TABLE.items():
        for names, factor in units.items():
            for name in names.split():
                yield name, (dimension, Fraction(factor))
                if len(name) > SYMBOLS or name in ("day", "yen", "cup"):
                    yield f"{name}s", (dimension, Fraction(factor))


NAMES = dict(_names())


@lru_cache(4096)
def unit_of(text: str) -> Unit:
    """The unit that some words say; a noun that is in no table is a dimension of its own."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)  # both signs of micro
    text = SPEED.sub(lambda match: "mile/hour" if match[0] == "mph" else "km/hour", text)
    over, *under = SPLIT.split(text.strip())
    powers: dict[str, int] = {}
    factor, known = Fraction(1), True
    for part, direction in [(over, 1), *((one, -1) for one in under)]:
        more = 0
        for word in re.split(r"[\s*·⋅-]+", part):
            power, word = power_of(word.strip(".,;()"))
            if not word:
                continue
            if word.lower() in SQUARED:
                more = SQUARED[word.lower()]
                continue
            power, more = (more if more and power == 1 else power) * direction, 0
            low = word.lower()
            spoken = len(word) > SYMBOLS or (low in SHOUTED and word[0].isupper())
            found = NAMES.get(word) or (NAMES.get(low) if spoken else None)
            known = known and found is not None
            plain = len(word) > SYMBOLS or (word.istitle() and len(word) == SYMBOLS)
            name, size = found or ((low if plain else word).removesuffix("s"), Fraction(1))  # "mW" is no "MW"
            powers[name] = powers.get(name, 0) + power
            factor *= size**power
    dimensions = tuple(sorted((name, power) for name, power in powers.items() if power))
    return Unit(dimensions, factor, known, frozenset(name for name, _ in dimensions))


def power_of(word: str) -> tuple[int, str]:
    match = POWER.search(word)
    if match is None or (match[2] and word[: match.start()] not in NAMES):
        return 1, word
    return int(match[1] or match[2]), word[: match.start()]


ASKED = re.compile(
    r"\bhow (?:many|much)\s+(?:more |less |fewer |total |whole |full )?([a-z]+)|\bin ([a-z]+)\s*[?.,]", re.I
)


@lru_cache(1024)
def asked_unit(question: str) -> str:
    """The unit of the table that a question asks for ("how many minutes", "in cents?"); "" if it names none, or two."""
    found = {name for match in ASKED.finditer(question) if (name := (match[1] or match[2]).lower()) in NAMES}
    found = {name for name in found if len(name) > SYMBOLS}
    return found.pop() if len(found) == 1 else ""
