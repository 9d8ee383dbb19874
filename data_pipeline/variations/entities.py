"""Who and what a problem speaks of under other names: people, things, units. Numbers and gold answers stay."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.variations.values import FORMULA, is_computed
from tracestill.data_pipeline.variations.variation import Variation, with_text
from tracestill.data_pipeline.variations.words import BEHIND, NAMES, THINGS, persons_in

VOWELS = "aeiou"
AMOUNT = re.compile(r"\$ ?(?=\.?\d)")
MATHS = re.compile(r"\$(?! ?\.?\d)")  # the end of a formula of LaTeX: none of its dollars is money
SPELT = re.compile(r"\b(?:letters?|vowels?|consonants?|characters?|initials?|alphabet\w*|spel\w+)\b", re.I)


class Unit(NamedTuple):
    """Names of a unit that can stand for another's, and what a text must not speak of besides."""

    pattern: re.Pattern[str]
    words: dict[str, str]
    without: re.Pattern[str]

    def renamed(self, text: str) -> str:
        return self.pattern.sub(lambda match: like(match[0], self.words[match[0].lower()]), text)


def unit(words: dict[str, str], without: str) -> Unit:
    names = "|".join(map(re.escape, sorted(words, key=len, reverse=True)))
    return Unit(
        re.compile(rf"(?<![^\W\d])(?:{names})(?!\w)", re.I), words, re.compile(rf"(?<!\w)(?:{without})(?!\w)", re.I)
    )


UNITS = (
    unit(
        {"dollar": "euro", "dollars": "euros", "bucks": "euros"},
        r"(?-i:Bucks)|deer|fawns?|euros?|€|£|pounds sterling|quarters?|dimes?|nickels?|penn(?:y|ies)|U\.?S\.?A?|"
        r"American|currenc\w+|exchange\w*|silver dollars?|sand dollars?|dollar (?:store|tree|menu)",
    ),
    unit({"mile": "kilometer", "miles": "kilometers", "mph": "km/h"},
         r"(?-i:Miles)(?! (?:to|per|of|are|from)\b)|"
         r"kilomet\w+|km|feet|foot|ft|yards?|inch\w*|met(?:er|re)s?|laps?|blocks?"),
    unit({"pound": "kilogram", "pounds": "kilograms", "lb": "kg", "lbs": "kg", "lbs.": "kg"},
         r"ounces?|oz|tons?|stones?|grams?|kg|kilos?|kilograms?|£|sterling|pence|net worth|salar\w+|calor\w+|"
         r"pound cakes?|(?:dog|animal|British) pounds?|(?:at|in|from|to) the pound"),
    unit({"gallon": "liter", "gallons": "liters"},
         r"quarts?|pints?|cups?|ounces?|oz|lit(?:er|re)s?|milli\w+|miles per gallon|mpg"),
)  # fmt: skip


def renamed(question: Question, draw: random.Random) -> Question | None:
    """Every known name by another one of the same kind that does not stand in the text."""
    text = question.question
    persons = persons_in(text)
    words = {word.casefold() for word in re.findall(r"\w+", f"{text} {question.gold}")}
    small = set(re.findall(r"\w+", text))
    if not persons or not is_computed(question) or SPELT.search(text) or FORMULA.search(text):
        return None  # a name of which the letters count, or that stands in a program
    if any(name.lower() in small or re.search(rf"\b{name} [A-Z]", text) for name in persons):
        return None  # in small letters it may be a bird, or the same person; and nobody known by a full name
    new: dict[str, str] = {}
    for name in persons:
        free = [n for n in NAMES[name] if n.casefold() not in words and n not in new.values() and not n.endswith("s")]
        if not free:
            return None
        new[name] = draw.choice(free)
    names = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, persons))})(['’](?!\w))?(?!\w)")

    def put(match: re.Match[str]) -> str:
        own = match[2] and match[1].endswith("s")  # James' is Peter's
        return new[match[1]] + (match[2] or "") + ("s" if own else "")

    return with_text(question, names.sub(put, text))


def other_things(question: Question, draw: random.Random) -> Question | None:
    """Things by others of their kind that the text does not speak of, singular and plural alike. One stays that is part
    of the name of another thing."""
    text = question.question
    words = {word.casefold() for word in re.findall(r"\w+", f"{text} {question.gold}")}
    new: dict[str, str] = {}
    for line in THINGS:
        pairs = [pair.split() for pair in line]
        held = [pair for pair in pairs if words.intersection(pair)]
        if any(is_part(pair, text) for pair in held):
            continue
        free = [pair for pair in pairs if not words.intersection(pair)]
        if len(held) > len(free):
            continue
        for (one, many), (other, others) in zip(held, draw.sample(free, len(held)), strict=True):
            new |= {one: other, many: others, one.title(): other.title(), many.title(): others.title()}
    if not new or not is_computed(question) or SPELT.search(text) or FORMULA.search(text):
        return None
    names = re.compile(rf"\b(?:([Aa])n? )?({'|'.join(sorted(new, key=len, reverse=True))})\b")

    def put(match: re.Match[str]) -> str:
        thing = new[match[2]]
        article = f"{match[1]}{'n' if thing[0].lower() in VOWELS else ''} " if match[1] else ""
        return article + thing

    return with_text(question, names.sub(put, text))


def is_part(thing: Sequence[str], text: str) -> bool:
    """Whether a thing, singular and plural, stands in the name of another one somewhere: a T-shirt, a pencil case."""
    one, names = thing[0], "|".join(thing)
    if re.search(rf"[-–] ?(?:{names})\b|\b(?:{names})[-–]\w", text, re.I):
        return True
    return any(word.lower() not in BEHIND for word in re.findall(rf"\b{one} ([^\W\d_]+)", text, re.I))


def other_units(question: Question, draw: random.Random) -> Question | None:
    """Dollars are called euros, miles kilometers, and so on: as names only, nothing is converted. A unit stays whose
    relation to another one the problem speaks of."""
    text = question.question
    if not is_computed(question):
        return None
    for each in UNITS:
        told = f"{text} {question.gold}"
        is_money = each is UNITS[0] and "$" in told
        if each.without.search(told) or each.pattern.search(question.gold) or "$" in question.gold:
            continue
        if is_money and MATHS.search(text):
            continue
        if is_money:
            text = AMOUNT.sub("€", text)
        text = each.renamed(text)
    return None if text == question.question else with_text(question, text)


def like(old: str, new: str) -> str:
    """A word with the capitals of the one that it stands for."""
    return new.upper() if old.isupper() and len(old) > 2 else new.title() if old[0].isupper() else new


BUILT_IN = [
    Variation("names", renamed, "entities"),
    Variation("things", other_things, "entities"),
    Variation("units", other_units),
]
