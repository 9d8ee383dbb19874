"""The words that segmentation knows, of every language in ``languages``: a JSON file each, read once.

    abbreviations   their stop ends no sentence; those of before_number only in front of a number
    numbers         words that are a value; factors say one (``twice``) without being a result
    operators       between two values: a computation; equals: an equality sign in words
    joints          a clause begins with one, without a comma
    lead            what may stand before a verb of plan, at the beginning of a clause
    plan            after any lead; plan_start at the beginning of a clause, plan_anywhere wherever it stands
    check           what verifies, wherever it stands, check_start at the beginning; repair what doubts or repairs
    yields          verbs before a value that comes out; counted: nouns before a number that counts steps

All languages count at once, since a teacher may write in several. Chinese, which puts no spaces between words, is
searched for its phrases instead of asked word by word.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "languages"
LANGUAGES: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
Phrases = tuple[tuple[tuple[str, ...], str], ...]  # words that follow the first one, and a role
IDEOGRAPH = re.compile(r"[぀-ヿ㐀-鿿]")


def of_all(key: str) -> set[str]:
    """The words of every language under ``key``."""
    return {word for language in LANGUAGES.values() for word in language[key]}


def values_of(key: str) -> dict[str, Any]:
    return {word: value for language in LANGUAGES.values() for word, value in language[key].items()}


def longest_first(words: set[str]) -> list[str]:
    return sorted(words, key=lambda word: (-len(word), word))


def phrases(*roles: str) -> dict[str, Phrases]:
    """First word -> the words that have to follow it, and the phrase's role; longest first."""
    found: dict[str, list[tuple[tuple[str, ...], str]]] = {}
    for role in roles:
        for phrase in of_all(role):
            if not IDEOGRAPH.search(phrase):
                first, *rest = phrase.split()
                found.setdefault(first, []).append((tuple(rest), role))
    return {first: tuple(sorted(held, key=lambda p: (-len(p[0]), p))) for first, held in found.items()}


def ideographs(role: str) -> re.Pattern[str]:
    """Finds the phrases of a role that are written without spaces."""
    found = [re.escape(phrase) for phrase in longest_first(of_all(role)) if IDEOGRAPH.search(phrase)]
    return re.compile("|".join(found) or r"(?!)")


ABBREVIATIONS = longest_first(of_all("abbreviations"))
BEFORE_NUMBER = longest_first(of_all("before_number"))
NUMBERS: dict[str, float] = values_of("numbers")
FACTORS: dict[str, float] = values_of("factors")
OPERATORS = phrases("operators", "equals")
JOINTS = phrases("joints")
LEAD = of_all("lead")
COUNTED = of_all("counted") | {"#"}
PLAN = phrases("plan")
YIELDS = of_all("yields")
STARTS = phrases("plan_start", "check_start", "repair_start")
ANYWHERE = phrases("plan_anywhere", "check", "repair")
UNSPACED = {role: ideographs(role) for role in ("repair", "check", "plan_anywhere")}
