"""The words that lean on what stands before them, of a language: connectives, pronouns, numbers of steps.

They stand in segmentation's word files (see ``segmentation.words``):

    dangling   connectives that lead on from the sentence before; with a comma at their end, only in front of one
    stays      what begins as one of them and is none (``so far``)
    concludes  a clause that begins so says what follows from what was said
    instead    what takes the place of a connective without a comma where the order of words needs one (German)
    refers     a sentence that begins so speaks of the one before it; refers_within: if they stand near its beginning
    ordinals   words that count steps (``First, … Second, …``); step_words: before a number that does

A trace is taken to be in the language that has most of its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import NamedTuple

from tracestill.data_pipeline.segmentation.words import LANGUAGES, longest_first

DEFAULT = "en"
TELLING = ("lead", "joints", "yields", "abbreviations", "numbers", "refers", "refers_within", "counted")
WORD = re.compile(r"[^\W\d_]+")
SCRIPTS = {"zh": re.compile(r"[㐀-鿿]"), "hi": re.compile(r"[ऀ-ॿ]")}
COMMA = r"\s*[,，、:：]\s*"
CONTRACTED = r"(?:['’](?:s|ll|re|d))"  # ``it's``, ``that'll``
NEAR = 40  # characters from the beginning of a sentence in which a pronoun may speak of the one before it
LOOKED_AT = 2000  # characters that tell the language


class Phrases(NamedTuple):
    """Patterns of one language; each but ``refers_within`` matches at the beginning of a sentence."""

    dangling: re.Pattern[str]
    instead: str
    refers: re.Pattern[str]
    refers_within: re.Pattern[str]
    ordinals: tuple[tuple[str, ...], ...]
    ordinal: re.Pattern[str]

    def strip(self, text: str) -> tuple[int, str]:
        """How many characters of connectives a sentence begins with, and what is written in their place."""
        at, instead = 0, ""
        while found := self.dangling.match(text, at):
            comma = found["comma"] is not None
            at, instead = found.end(), "" if comma or not self.instead else f"{self.instead} "
        return at, instead

    def leans(self, text: str) -> bool:
        """Whether a sentence, without the connectives at its beginning, speaks of the one before it."""
        plain = text[self.strip(text)[0] :]
        return self.refers.match(plain) is not None or self.refers_within.search(plain, 0, NEAR) is not None


def language_of(text: str) -> str:
    """The language that has most of the words of a text."""
    text = text[:LOOKED_AT]
    for name, pattern in SCRIPTS.items():
        if len(pattern.findall(text)) > len(text) // 10:
            return name
    words = [word.lower() for word in WORD.findall(text)]
    counts = {name: sum(word in known for word in words) for name, known in telling().items()}
    return max(counts, key=lambda name: (counts[name], name == DEFAULT), default=DEFAULT)


@cache
def telling() -> dict[str, frozenset[str]]:
    """Language -> words that tell it."""
    return {
        name: frozenset(word for key in TELLING for phrase in language[key] for word in WORD.findall(phrase))
        for name, language in LANGUAGES.items()
        if name not in SCRIPTS
    }


@cache
def phrases_of(name: str) -> Phrases:
    language = LANGUAGES[name]
    before, close = ("", "") if name == "zh" else (r"(?<![\w'’])", r"(?![\w'’])")
    any_comma = [f"{re.escape(p.rstrip(','))}(?={COMMA})" for p in longest_first(set(language["dangling"]))]
    plain = [re.escape(p) + close for p in longest_first({p for p in language["dangling"] if not p.endswith(",")})]
    stays = "".join(rf"(?!{re.escape(p)}{close})" for p in language["stays"])
    ordinals = tuple(tuple(series) for series in language["ordinals"])
    counting = one_of(re.escape(word) for series in ordinals for word in series)
    return Phrases(
        dangling=re.compile(rf"\s*{stays}(?:(?:{one_of(any_comma + plain)})(?:(?P<comma>{COMMA})|\s+|(?=\w)))", re.I),
        instead=language["instead"],
        refers=re.compile(
            rf"[\s*_]*(?:{one_of(map(re.escape, longest_first(set(language['refers']))))}){CONTRACTED}?{close}", re.I
        ),
        refers_within=re.compile(
            rf"{before}(?:{one_of(map(re.escape, longest_first(set(language['refers_within']))))}){close}", re.I
        ),
        ordinals=ordinals,
        ordinal=re.compile(rf"\s*(?P<word>{counting}){close}(?P<comma>{COMMA})?", re.I),
    )


def one_of(patterns: Iterable[str]) -> str:
    return "|".join(patterns) or r"(?!)"
