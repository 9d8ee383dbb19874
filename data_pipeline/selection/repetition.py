"""Text that a teacher wrote again and again, and the question copied into its trace."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

Policy = Literal["reject", "count", "ignore"]

LOOP = 40  # characters from the end that are looked for before it
TIMES = 4  # pieces alike in a row that make a loop
LOOPED = 200  # characters that a loop fills at least
SEARCHED = 20_000  # characters before the end in which the last ones are looked for again
NEAR = 4  # words that must come back for a loop to be looked for around them
OF_TRACE, SHARE, FEWEST = 8, 0.4, 60  # words of a sequence; share of them that stood before; words looked at
OF_QUESTION, COPIED, SHORT = 4, 0.8, 12  # words of a sequence; share of the question's; words of a question
WORD = re.compile(  # a character of Chinese, Japanese or Thai, which put no spaces between words, is one
    r"\d+(?:[.,]\d+)*|[\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]|[^\W\d\u3040-\u30ff\u3400-\u9fff\u0e00-\u0e7f]+"
    r"|[^\w\s.,;:!?\"'`*]"
)


def words_of(text: str) -> list[str]:
    """Words, numbers and signs of a text in lower case, without its punctuation."""
    return WORD.findall(text.casefold())


def repeats(text: str, words: Sequence[str]) -> str:
    """What a text says again and again, in words; empty if nothing.

    Either one piece with letters in it stands ``TIMES`` times or more in a row, on ``LOOPED`` characters or more, or
    40 % of the sequences of eight words stood before.
    """
    if any(map(str.isalpha, piece := loop(text))):
        return f"it ends in {piece!r:.80} again and again"
    if len(words) < NEAR * TIMES:
        return ""
    if piece := looped_words(words):
        return f"it says {piece!r:.80} again and again"
    if len(words) >= FEWEST:
        grams = [gram for gram in sequences(words, OF_TRACE) if any(map(str.isalpha, gram))]
        again = 1 - len(set(grams)) / len(grams) if grams else 0
        if again > SHARE:
            return f"{again:.0%} of its sequences of {OF_TRACE} words stood before"
    return ""


def looped_words(words: Sequence[str]) -> str:
    """The words that stand ``TIMES`` times in a row, anywhere; empty if none do."""
    counts = Counter(sequences(words, NEAR))
    if max(counts.values(), default=0) < TIMES:
        return ""
    places: dict[tuple[str, ...], int] = {}
    measured: dict[int, int] = {}  # period -> where the last stretch of it ends
    for at, gram in enumerate(sequences(words, NEAR)):
        if counts[gram] < TIMES:
            continue
        before, places[gram] = places.get(gram), at
        if before is None:
            continue
        period = at - before
        if at < measured.get(period, 0):
            continue
        end = at
        while end < len(words) and words[end] == words[end - period]:
            end += 1
        piece = words[before:at]
        filled = sum(map(len, words[before:end])) + end - before
        if (end - before) // period >= TIMES and filled >= LOOPED and any(map(str.isalpha, piece)):
            return " ".join(piece)
        measured[period] = end
    return ""


def copied(question: Sequence[str], trace: Sequence[str]) -> str:
    """How much of a question's words a trace holds in their order, if that is nearly all; empty if it is not."""
    if len(question) < SHORT or len(trace) < SHORT:
        return ""
    wanted = set(sequences(question, OF_QUESTION))
    share = len(wanted.intersection(sequences(trace, OF_QUESTION))) / len(wanted)
    return f"it holds {share:.0%} of the question, word for word" if share >= COPIED else ""


def sequences(words: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """All runs of ``length`` words."""
    return zip(*(words[at:] for at in range(length)), strict=False)


def loop(text: str) -> str:
    """The piece that a text ends in again and again; empty if it does not."""
    if len(text) < LOOPED:
        return ""
    tail = text[-LOOP:]
    before = text.rfind(tail, max(0, len(text) - SEARCHED), len(text) - 1)
    if before < 0:
        return ""
    period = len(text) - LOOP - before
    piece, times, at = text[-period:], 1, len(text) - period
    while at >= period and text[at - period : at] == piece:
        times, at = times + 1, at - period
    return piece if times >= TIMES and times * period >= LOOPED else ""
