"""Training questions and traces that share 13 words in a row with a benchmark (Brown et al., arXiv 2005.14165)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.sampling.files.rows import rows_of
from tracestill.data_pipeline.sampling.splits.near import WORD

LENGTH = 13  # words
SHORT = 5  # words from which on a text shorter than LENGTH counts as a whole


class Benchmarks:
    """The sequences of words in files, each known by the first row that holds it."""

    def __init__(self, files: Sequence[str]) -> None:
        """Raises InputError if a file cannot be read, or nothing in it; rows that cannot are passed over."""
        self.known: dict[int, tuple[str, int]] = {}
        for file in files:
            found, fault = False, ""
            for part in parts_of(file):
                for _, row in rows_of(part):
                    fault = fault or str(row.fault or "")
                    for text in texts_of(row.data):
                        for gram in grams(text):
                            found = True
                            self.known.setdefault(gram, (part.place, row.at))
            if not found:
                why = f": {fault}" if fault else ""
                raise InputError(f"questions.decontaminate: {file} holds no text of {SHORT} words or more{why}")

    def found_in(self, texts: Iterable[str]) -> str:
        """The row of a benchmark that texts share words with, as file:row; empty if there is none."""
        if self.known:
            for text in texts:
                for gram in grams(text):
                    if held := self.known.get(gram):
                        return f"{held[0]}:{held[1]}"
        return ""


def grams(text: str) -> Iterator[int]:
    """A hash of each sequence of LENGTH words, in small letters and without punctuation."""
    words = WORD.findall(text.lower())
    if SHORT <= len(words) < LENGTH:
        yield hash(" ".join(words))
    for at in range(len(words) - LENGTH + 1):
        yield hash(" ".join(words[at : at + LENGTH]))


def texts_of(value: Any) -> Iterator[str]:
    """All texts in a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)
