"""Values followed from step to step (``values``): a number that comes from nowhere, a result that is used changed.

Known is what the question says, what the trace has said, and percentages and complements of both. An operand that is
none of it, and no number that anybody may use (small ones, days and hours, hundreds), comes from nowhere. It is

- false, where a result that nobody has used stands before it that is as long (``= 800`` … ``2.8 * 700``), or where
  it is a known value but for one digit, two digits exchanged, or a zero: it was copied wrongly;
- else not to be told: people compute in their heads, and know what a gallon is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracestill.data_pipeline.segmentation.lexer import NUMBER, TIME, WORD, Lexed, lex, value_of
from tracestill.data_pipeline.segmentation.words import FACTORS
from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

USUAL = frozenset([*range(13), 14, 15, 16, 20, 21, 24, 25, 28, 30, 31, 36, 48, 50, 52, 60, 90, 100, 120, 144, 168, 180,
                   360, 365, 366, 500, 1000, 1440, 2000, 3600, 5280, 10000, 100000, 1000000, 0.5, 0.25, 0.75, 0.1, 0.01,
                   0.05, 0.2, 1.5, 2.5, 2.54, 3.14, 12.5])  # fmt: skip
DIGITS = 2  # of a number at least, for a wrong copy; of one that differs by a slip one more
LONGEST = 500  # equations of a trace that are followed
MOST = 60  # known values that pairs are made of
OPERAND = re.compile(r"\d+(?:\.\d+)?")


def values(trace: Trace) -> Iterator[Finding]:
    known = said(lex(trace.question))
    unused: dict[float, str] = {}  # results that no operand has taken up
    lexed, at = trace.lexed, 0
    for one in trace.equations[:LONGEST]:
        while at < len(lexed.starts) and lexed.starts[at] < one.start:
            if lexed.types[at] == NUMBER:
                known.add(value_of(lexed.texts[at]))
            at += 1
        first, _, rest = one.path.partition("=")
        derived: set[float] | None = None
        operands = OPERAND.findall(first)
        for value in map(float, operands):
            unused.pop(value, None)
        for text in operands:
            value = float(text)
            if value in known or value in USUAL:
                continue
            derived = made_of(known) if derived is None else derived
            if rounded(value) in derived:
                continue
            like = copied_from(text, unused) or slip_of(text, known)
            if like and not in_the_head(value, known):
                yield Finding(one.start, one.end, "false", f"{text} was {like} before")
            else:
                yield Finding(one.start, one.end, "cannot_tell", f"{text} comes from nowhere")
        last = OPERAND.findall(rest)
        known.update(float(text) for text in [*last, *operands])
        unused.update((float(text), text) for text in last[-1:])


def said(lexed: Lexed) -> set[float]:
    """The values that a text names, and what words such as ``dozen`` and ``half`` stand for."""
    found = set[float]()
    for kind, text in zip(lexed.types, lexed.texts, strict=True):
        if kind == NUMBER:
            found.add(value_of(text))
        elif kind == TIME:  # a time of day, or a ratio
            found.update(map(float, text.split(":")))
        elif kind == WORD and text in FACTORS:
            found.add(FACTORS[text])
    return found


def rounded(value: float) -> float:
    return round(value, 2)


def made_of(known: set[float]) -> set[float]:
    """Percentages and complements of known values."""
    return {
        rounded(one)
        for v in known
        for one in (v / 100, 1 - v / 100, 1 + v / 100, 100 - v, 100 + v, 1 - v, 1 + v, v * 100, v + 1, v - 1, v / 60)
    }


def in_the_head(value: float, known: set[float]) -> bool:
    """Whether a number is what one operation makes of two known values."""
    some = sorted(known)[:MOST]
    return any(
        abs(value - made) < 0.01
        for at, one in enumerate(some)
        for other in some[at:]
        for made in (one + other, other - one, one * other, other / one if one else 0.0, one / other if other else 0.0)
    )


def copied_from(text: str, unused: dict[float, str]) -> str:
    """The last unused result that is as long as a number; empty if there is none."""
    found = [other for other in unused.values() if len(other) == len(text)] if len(text) >= DIGITS else []
    return found[-1] if found else ""


def slip_of(text: str, known: set[float]) -> str:
    """The known value that a number is but for a slip of the pen; empty if there is none."""
    for value in known if len(text.replace(".", "")) > DIGITS else ():
        other = f"{value:.10g}"
        if len(other.replace(".", "")) > DIGITS and one_slip(text, other):
            return other
    return ""


def one_slip(one: str, other: str) -> bool:
    """Whether two numbers differ in one digit, in two neighbours exchanged, or in a zero more or less."""
    if len(one) == len(other):
        apart = [at for at in range(len(one)) if one[at] != other[at]]
        if len(apart) != 2:
            return len(apart) == 1
        at, behind = apart
        return behind == at + 1 and one[at] == other[behind] and one[behind] == other[at]
    longer, shorter = sorted((one, other), key=len, reverse=True)
    return longer == shorter + "0" and "." not in longer
