"""Texts of models as the table of traces shows them: secrets masked, hidden characters written out, false steps marked,
very long ones cut, and that said."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tracestill.data_pipeline.guards.secret import mask_data
from tracestill.data_pipeline.guards.visible import visible

MOST = 32_000_000  # characters of a page's texts; compressed, they are about a third
LIMITS = (20_000, 10_000, 5_000, 2_500, 1_000, 500)  # characters of a text: the first with which all of them fit
Mark = tuple[int, int, str]  # characters [start, end) of a text, and what is wrong with them
Pieces = str | list[str | dict[str, Any]]
"""A text in pieces: plain ones, ``{"false": text, "why": …}``, and ``{"cut": characters left out}``."""


class Texts:
    """The texts of one page, ``shown`` ones and others that are only looked at. ``limit``: how many characters of one
    are shown at most."""

    def __init__(self, shown: Iterable[str], others: Iterable[str] = (), most: int = MOST) -> None:
        first = dict.fromkeys(shown)
        every = [*(first | dict.fromkeys(others))]
        self.masked: dict[str, str] = dict(zip(every, mask_data(every), strict=True))
        lengths = [len(self.masked[text]) for text in first]
        fitting = (limit for limit in LIMITS if sum(min(length, limit) for length in lengths) <= most)
        self.limit = next(fitting, LIMITS[-1])
        self.characters = sum(min(length, self.limit) for length in lengths)
        self.cut = 0  # texts that were

    def plain(self, text: str) -> str:
        """A short text, such as an answer: one piece, whatever its length."""
        return visible(self.masked[text])

    def pieces(self, text: str, marks: Sequence[Mark] = ()) -> Pieces:
        """A text with its ``marks``, which are of the masked text. Of a text that is too long the middle goes."""
        text = self.masked[text]
        windows = [(0, len(text))]
        if len(text) > self.limit:
            windows = [(0, self.limit * 2 // 3), (len(text) - self.limit // 3, len(text))]
            self.cut += 1
        found: list[str | dict[str, Any]] = []
        for at, (start, end) in enumerate(windows):
            if at:
                found.append({"cut": start - windows[0][1]})
            found += stretches(text, start, end, marks)
        return "".join(map(str, found)) if all(isinstance(piece, str) for piece in found) else found


def stretches(text: str, start: int, end: int, marks: Sequence[Mark]) -> list[str | dict[str, Any]]:
    """Characters [start, end) of a text in pieces; of marks that overlap the first one holds."""
    found: list[str | dict[str, Any]] = []
    for begin, stop, why in sorted(marks):
        begin, stop = max(begin, start), min(stop, end)
        if begin >= stop:
            continue
        if begin > start:
            found.append(visible(text[start:begin]))
        found.append({"false": visible(text[begin:stop]), "why": visible(why)})
        start = stop
    return [*found, visible(text[start:end])] if start < end else found


def plain(pieces: Pieces) -> str:
    """The text of pieces, without what is said of them."""
    if isinstance(pieces, str):
        return pieces
    return "".join(piece if isinstance(piece, str) else piece.get("false", "") for piece in pieces)
