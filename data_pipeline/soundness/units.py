"""Sizes of units, in English, Spanish, German and French; how many of the smallest one of its family a unit holds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple


class Unit(NamedTuple):
    family: str
    size: Fraction


COUNT = "count"
FAMILIES = {
    "time": {
        "1": "second sec s segundo sekunde seconde",
        "60": "minute min minuto",
        "3600": "hour hr h hora stunde std heure",
        "86400": "day día dia tag tage tagen jour",
        "604800": "week semana woche semaine",
    },
    "calendar": {
        "1": "month mes monat mois",
        "12": "year yr año jahr jahre jahren année an",
        "120": "decade década jahrzehnt décennie",
        "1200": "century centuries siglo jahrhundert siècle",
    },
    "money": {
        "1": "cent penny pennies pence ¢ c céntimo centavo centime",
        "5": "nickel",
        "10": "dime",
        "25": "quarter",
        "100": "peso dollar $ usd buck euro € eur dólar dólare £ gbp",
    },
    "length": {
        "1": "mm millimeter millimetre milímetro millimètre",
        "10": "cm centimeter centimetre centímetro zentimeter centimètre",
        "100": "dm decimeter dezimeter",
        "1000": "m meter metre metro mètre",
        "1000000": "km kilometer kilometre kilómetro kilomètre",
    },
    "imperial": {"1": "inch inche in", "12": "foot feet ft", "36": "yard yd", "63360": "mile mi"},
    "mass": {
        "1": "mg milligram milligramme",
        "1000": "g gram gramme gramo gramm",
        "1000000": "kg kilogram kilogramme kilogramo kilogramm kilo",
    },
    "weight": {"1": "ounce oz", "16": "pound lb"},
    "volume": {"1": "ml milliliter millilitre mililitro", "10": "cl", "1000": "l liter litre litro"},
    "kitchen": {
        "1": "teaspoon tsp",
        "3": "tablespoon tbsp",
        "6": "ounce oz",
        "48": "cup",
        "96": "pint",
        "192": "quart",
        "768": "gallon",
    },
    COUNT: {
        "2": "pair paar paire",
        "12": "dozen dutzend docena douzaine",
        "100": "hundred hundert",
        "1000": "thousand tausend mil mille k",
        "1000000": "million millione millón millon",
        "1000000000": "billion",
        "1000000000000": "trillion",
    },
}
RATES = {"mph": "miles/hour", "kph": "km/hour", "kmh": "km/hour", "kmph": "km/hour"}
UNITS: dict[str, list[Unit]] = {}
for _family, _sizes in FAMILIES.items():
    for _size, _words in _sizes.items():
        for _word in _words.split():
            UNITS.setdefault(_word, []).append(Unit(_family, Fraction(_size)))
VAGUE = {  # what has no certain size beside units of these families
    **dict.fromkeys(("ton", "stone", "tonelada", "tonne"), ("mass", "weight")),
    **dict.fromkeys(("billón", "millardo", "milliarde", "milliard"), ("",)),
}
VAGUE_PAIRS = frozenset({("calendar", "time"), ("imperial", "length"), ("mass", "weight"), ("kitchen", "volume")})

WHOLE_UNITS = {"time": (86400, 604800), "calendar": (1, 12, 120), COUNT: (12,)}  # counted in whole ones, as days are
MEASURES = frozenset({  # plural nouns beside the units above that count nothing whole
    "points", "degrees", "calories", "acres", "hectares", "percents", "watts", "volts", "amps", "joules", "newtons",
    "bytes", "credits", "units", "squares", "times", "knots", "rupees", "yens", "marks", "francs", "stones", "shares",
    "thirds", "halves", "quarters", "fifths", "tenths", "percentages", "grades", "puntos", "grados", "calorías",
})  # fmt: skip
PLURALS = frozenset({  # nouns without an s that count what is whole
    "people", "children", "men", "women", "mice", "geese", "fish", "sheep", "teeth", "deer", "personen", "menschen",
    "kinder", "leute", "gens", "persone", "settimane",
})  # fmt: skip
NO_NOUNS = frozenset(
    {"less", "plus", "minus", "this", "thus", "always", "perhaps", "besides", "across", "does", "unless"}
)


def counts_whole(words: Sequence[str]) -> bool:
    """Whether the first noun of some words, a plural, counts whole things: ``weeks``, ``school buses``, and no
    ``dollars`` or ``miles``."""
    for word in words[:3]:
        low = word.casefold()
        if units := units_of(low):
            return any(unit.size in WHOLE_UNITS.get(unit.family, ()) for unit in units)
        if low in PLURALS or (low.endswith("s") and len(low) > 3 and low not in NO_NOUNS):
            return low not in MEASURES
    return False


def units_of(word: str) -> list[Unit]:
    """The units that a word may name; exponents (``cm^2``) are the caller's."""
    low = word.casefold()
    for form in (low, low.removesuffix("s"), low.removesuffix("es"), low.removesuffix("n")):
        if form in UNITS:
            return UNITS[form]
    return []
