"""What remains of a trace as a text that reads on, with its spans.

At a cut, connectives that led on from what is gone are taken away and the next word begins with a capital; a list's
mark goes to the first sentence that is left of its line; numbers of steps have no holes, also where they are referred
to; a clause that has become the last one ends as its sentence did; the widest gap of those at a cut stays.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Record, Span
from tracestill.data_pipeline.granularity.phrases import Phrases
from tracestill.data_pipeline.granularity.units import REFERENCE, Unit, value, visible_end, written

FINAL = re.compile(r"[.!?…。！？।]+[\"'”’»)\]*]*\Z")
LOOSE = re.compile(r"\s*[,;:，；：、–—-]+[\s*_]*\Z")
TAIL = 40  # characters that end a sentence, at most
ONE_LETTER = ("a", "i", "y", "e", "o", "à", "ó", "u")  # that are words


class Mended(NamedTuple):
    trace: str
    spans: tuple[Span, ...]
    origin: tuple[int, ...]  # the character of the record's trace that each one comes from, or stands for


def mended(record: Record, units: Sequence[Unit], keep: Sequence[bool], phrases: Phrases) -> Mended:
    """The trace of the units that stay."""
    writer = Writer(record, units, keep, phrases)
    for at, kept in enumerate(keep):
        if kept:
            writer.write(at)
    text, origin = "".join(writer.texts), writer.origin
    ends = [span.end for span in record.spans]
    kinds = (record.spans[bisect_right(ends, place)].kind for place in origin)
    spans, start = [], 0
    for kind, group in groupby(kinds):
        end = start + sum(1 for _ in group)
        spans.append(Span(start, end, kind))
        start = end
    return Mended(text, tuple(spans), tuple(origin))


class Writer:
    """Writes units one after the other."""

    def __init__(self, record: Record, units: Sequence[Unit], keep: Sequence[bool], phrases: Phrases) -> None:
        self.trace, self.units, self.keep, self.phrases = record.trace, units, keep, phrases
        self.texts: list[str] = []
        self.origin: list[int] = []
        self.marked: set[int] = set()  # items whose mark is written
        self.numbers = self.marks_left()
        self.ordinals = self.ordinals_left()
        self.named: dict[int, int] = {}  # number of a step -> what it is now

    def marks_left(self) -> dict[int, int]:
        """Item -> its number in what remains."""
        left = {units.item for units, kept in zip(self.units, self.keep, strict=True) if kept}
        marks = [(at, unit.mark) for at, unit in enumerate(self.units) if unit.mark is not None]
        counted = ((at, mark.series, mark.number) for at, mark in marks if mark.number is not None)
        return renumbered(counted, left)

    def ordinals_left(self) -> dict[int, tuple[int, int, str]]:
        """Unit -> where its ordinal stands, and the one that takes its place."""
        found: dict[int, tuple[int, int, int, int]] = {}
        for at, unit in enumerate(self.units):
            match = self.phrases.ordinal.match(self.trace, unit.body, unit.end)
            if match is None:
                continue
            word = match["word"].lower()
            series = next(s for s, words in enumerate(self.phrases.ordinals) if word in words)
            number = self.phrases.ordinals[series].index(word)
            if match["comma"] or number == 0:
                found[at] = (*match.span("word"), series, number)
        left = {at for at, kept in enumerate(self.keep) if kept}
        now = renumbered(((at, str(series), number) for at, (_, _, series, number) in found.items()), left)
        return {
            at: (found[at][0], found[at][1], self.phrases.ordinals[found[at][2]][number]) for at, number in now.items()
        }

    def write(self, at: int) -> None:
        unit, trace = self.units[at], self.trace
        item = self.units[unit.item]
        if item.mark is not None and unit.item not in self.marked:
            self.write_mark(unit, item)
        end = visible_end(trace, unit.body, unit.end)
        self.write_body(at, end)
        self.write_gap(at, end)

    def write_mark(self, unit: Unit, item: Unit) -> None:
        mark = item.mark
        assert mark is not None
        self.marked.add(unit.item)
        now = self.numbers.get(unit.item)
        if mark.number is not None and now is not None:
            self.named[mark.number] = now
        if unit is item:
            if now is None or now == mark.number:
                self.copy(unit.start, unit.body)
                return
            begin, end = mark.digits
            self.copy(unit.start, begin)
            self.put(written(now, self.trace[begin:end]), begin)
            self.copy(end, unit.body)
            return
        text = mark.text
        if now is not None and now != mark.number:
            digits = self.trace[slice(*mark.digits)]
            text = text.replace(digits, written(now, digits), 1)
        self.put(text, mark.start)

    def write_body(self, at: int, end: int) -> None:
        unit, trace = self.units[at], self.trace
        begin = unit.body
        edits: list[tuple[int, int, str]] = []
        if self.begins_at_cut(at):
            taken, instead = self.phrases.strip(trace[begin:end])
            if begin + taken >= end:
                taken, instead = 0, ""
            first = trace[self.units[unit.step].body : end].lstrip(" *_")[:1]
            start = begin + taken
            if instead:
                edits.append((begin, start, instead.capitalize() if first.isupper() else instead))
            else:
                edits.append((begin, start, ""))
                if (first.isupper() or not self.texts) and (capital := capital_of(trace, start, end)):
                    edits.append((start, start + 1, capital))
        if at in self.ordinals:
            left, right, word = self.ordinals[at]
            if trace[left:right].lower() != word:
                edits.append((left, right, word.capitalize() if trace[left].isupper() else word))
        for found in REFERENCE.finditer(trace, begin, end):
            number = value(found["number"])
            if self.named.get(number, number) != number:
                edits.append((*found.span("number"), written(self.named[number], found["number"])))
        if self.ends_at_cut(at) and (loose := LOOSE.search(trace, max(begin, end - TAIL), end)):
            edits.append((loose.start(), end, self.final_of(at)))
        place = begin
        for left, right, text in sorted(edits):
            if left < place:
                continue  # within what another one takes away
            self.copy(place, left)
            self.put(text, left)
            place = right
        self.copy(place, end)

    def begins_at_cut(self, at: int) -> bool:
        """Whether what stood before a unit is gone, and it begins a sentence of what remains."""
        step = self.units[at].step
        return at > 0 and not self.keep[at - 1] and not any(self.keep[step:at])

    def ends_at_cut(self, at: int) -> bool:
        """Whether what a unit leads to is gone, and it ends a sentence of what remains."""
        following = at + 1
        if following == len(self.units) or self.keep[following]:
            return False
        rest = range(following, self.step_end(at))
        return (bool(rest) or self.units[at].leads_in) and not any(self.keep[i] for i in rest)

    def step_end(self, at: int) -> int:
        """Behind the last unit of a unit's sentence."""
        end = at + 1
        while end < len(self.units) and self.units[end].step == self.units[at].step:
            end += 1
        return end

    def final_of(self, at: int) -> str:
        """How the sentence of a unit ended."""
        last = self.units[self.step_end(at) - 1]
        if found := FINAL.search(self.trace[last.start : last.end].rstrip()[-TAIL:]):
            return found[0]
        return "." if self.units[at].leads_in else ""

    def write_gap(self, at: int, end: int) -> None:
        """White space up to the next unit that stays: the widest of those in between."""
        following = next((i for i in range(at + 1, len(self.units)) if self.keep[i]), None)
        if following == at + 1 or at + 1 == len(self.units):
            self.copy(end, self.units[at].end)
            return
        if following is None:
            return
        gaps = [self.trace[end : self.units[at].end]]
        for unit in self.units[at + 1 : following]:
            gaps.append(self.trace[visible_end(self.trace, unit.start, unit.end) : unit.end])
        gap = max(gaps, key=lambda text: text.count("\n"))
        self.put(gap, max(end - 1, 0))

    def copy(self, start: int, end: int) -> None:
        self.texts.append(self.trace[start:end])
        self.origin.extend(range(start, end))

    def put(self, text: str, place: int) -> None:
        self.texts.append(text)
        self.origin.extend([place] * len(text))


def renumbered(counted: Iterable[tuple[int, str, int]], left: set[int]) -> dict[int, int]:
    """Those left -> their numbers without holes. A number that is no higher than the one before it, in its series,
    begins another list."""
    found: dict[int, int] = {}
    last: dict[str, tuple[int, int]] = {}  # series -> the number before, and how many of its list are gone
    for at, series, number in counted:
        before, gone = last.get(series, (number, 0))
        if number <= before:
            gone = 0
        if at in left:
            found[at] = number - gone
        else:
            gone += 1
        last[series] = number, gone
    return found


def capital_of(trace: str, start: int, end: int) -> str:
    """The first letter of a text as a capital; empty if it is none, or a variable."""
    word = re.compile(r"[^\W\d_]+").match(trace, start, end)
    if word is None or not word[0].islower():
        return ""
    if len(word[0]) == 1 and (word[0] not in ONE_LETTER or trace[word.end() : word.end() + 2].strip()[:1] in "=+-*/^"):
        return ""
    return word[0][0].upper()
