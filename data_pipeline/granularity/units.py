"""A trace as units that stay or go: its steps, with what cannot be parted glued together, and the marks of lists.

What is glued: lines of a displayed formula, of code, of a table; an equation that goes on in the next line; a bracket
that closes later; what a full stop parts that ended no sentence. A mark (``2.``, ``(b)``, ``-``, ``Step 3:``) belongs
to its line, not to the first sentence of it.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity.phrases import Phrases
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.segmentation.words import LANGUAGES

STEP_WORDS = [word for language in LANGUAGES.values() for word in language["step_words"]]
NUMERALS = "一二三四五六七八九十"
NUMBER = rf"(?P<number>\d{{1,3}}|[{NUMERALS}])"
COUNTS = "|".join(map(re.escape, STEP_WORDS))
LABEL = rf"(?P<word>{COUNTS}|第(?=\s*[\d{NUMERALS}]+\s*步))\s*{NUMBER}(?:\s*步)?\s*[:.)：、，,]?"
MARK = re.compile(
    r"[ \t]*(?:>[ \t]*)?(?P<frame>(?:#{1,6}[ \t]+)?(?:\*\*|__)?)"
    rf"(?:(?P<label>{LABEL}(?:(?:\*\*|__)[:：.]?)?)(?:[ \t]+|$|(?=\n)|(?<=[:：、，]))"
    r"|(?P<list>\(?(?P<digits>\d{1,3})[.)](?:\*\*|__)?)[ \t]+"
    r"|(?P<letters>\(?(?P<letter>[a-h])\)(?:\*\*|__)?)[ \t]+"
    r"|(?P<bullet>[-*•‣·+](?![*\d]))[ \t]+)",
    re.I,
)
REFERENCE = re.compile(rf"(?:(?<!\w)(?:{COUNTS})s?[ \t]*|第(?=[\d{NUMERALS}]+步)){NUMBER}(?=\W|步|$)", re.I)
FEW = 16  # units of an item that a sentence means when it names the item
LONGEST = 40  # steps that are glued because something opens that does not close soon
PAIRS = ((r"\\\[", r"\\\]"), (r"\\\(", r"\\\)"), (r"\\begin\{", r"\\end\{"), (r"(?<!\\)\(", r"(?<!\\)\)"))
TWICE = ("$$", "```", "**")
GOES_ON = re.compile(r"[\s$*_]*(?:[=+×÷≈≤≥<>|]|-\s|\\(?:times|cdot|div|approx|end|\]|\))|[)\]}])")
ENDS_OPEN = re.compile(r"(?:[=+×÷≈(\[{,，]|\\\\|\\times|\\cdot|&)[\s$*_]*\Z")
OPENS = re.compile(r"\s*(?:\\\[|\\begin|\$\$|```)")
LEADS_IN = re.compile(r"[:：][\s*_]*\Z")
HEADING = re.compile(r"\s*(?:#{1,6}\s|\*\*[^*\n]+\*\*\s*\Z|__[^_\n]+__\s*\Z)")
SAYS = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Mark:
    """A list's mark, characters [start, end): which list it counts in, its number (None: a bullet), where that is."""

    start: int
    end: int
    series: str
    number: int | None
    digits: tuple[int, int]
    text: str  # without what opens bold text or a heading


@dataclass(slots=True)
class Unit:
    """Characters [start, end) of a trace, of which those before ``body`` are a list's mark."""

    start: int
    body: int
    end: int
    item: int  # the unit that begins its line
    step: int  # the unit that begins its sentence
    mark: Mark | None = None
    leads_in: bool = False  # a heading, or words that end in a colon: nothing without what follows
    needs: set[int] = field(default_factory=set)  # units without which it does not read on


def units_of(record: Record, phrases: Phrases, within: Collection[int] = (), *, glue: bool = True) -> list[Unit]:
    """The units of a record's trace; steps are parted at the characters ``within`` them, too."""
    trace = record.trace
    ends = glued(trace, step_ends(trace)) if glue else list(step_ends(trace))
    units: list[Unit] = []
    start, step = 0, 0
    for end in sorted({*ends, *within}):
        begins_line = not units or "\n" in trace[visible_end(trace, units[-1].start, start) : start]
        begins_step = not units or start in ends
        at = len(units)
        mark = mark_at(trace, start, end) if begins_step else None
        if (
            mark is not None
            and not begins_line
            and (mark := next_in_line(mark, units[units[-1].item].mark, end)) is not None
        ):
            begins_line = True
        step = at if begins_step else step
        body = mark.end if mark is not None and mark.end < end else start
        said = trace[body:end]
        unit = Unit(start, body, end, at if begins_line or not units else units[-1].item, step, mark)
        label_only = mark is not None and mark.number is not None and not SAYS.search(trace, mark.end, end)
        unit.leads_in = bool(LEADS_IN.search(said) or HEADING.match(trace[start:end]) or label_only) and end in ends
        units.append(unit)
        start = end
    connect(trace, units, phrases)
    return units


def glued(trace: str, ends: Sequence[int]) -> list[int]:
    """Ends of steps, without those behind which what was begun goes on."""
    found: list[int] = []
    begin = at = since = 0
    for place, end in enumerate(ends):
        following = trace[end : ends[place + 1]] if place + 1 < len(ends) else ""
        since += 1
        opened = since < LONGEST and is_open(trace[begin:end])
        signs = GOES_ON.match(following) or closes(following) or ENDS_OPEN.search(trace, at, end)
        goes_on = bool(following and signs) or (
            following[:1].islower() and "\n" not in trace[at:end]
        )  # ``the P.E. class``
        table = following.lstrip().startswith("|") and trace[at:end].lstrip().startswith("|")
        at = end
        if place + 1 < len(ends) and (opened or goes_on or table) and not mark_at(trace, end, ends[place + 1]):
            continue
        found.append(end)
        begin, since = end, 0
    return found


def closes(text: str) -> bool:
    """Whether a line has no words and opens nothing: a bracket, a rule."""
    return not SAYS.search(text) and not OPENS.match(text)


def is_open(text: str) -> bool:
    """Whether a text opens what it does not close."""
    for opening, closing in PAIRS:
        if len(re.findall(opening, text)) > len(re.findall(closing, text)):
            return True
    return any(text.count(sign) % 2 for sign in TWICE)


def mark_at(trace: str, start: int, end: int) -> Mark | None:
    """The mark of a list at the beginning of a line."""
    found = MARK.match(trace, start, end)
    if found is None:
        return None
    indent = len(found[0]) - len(found[0].lstrip())
    text = found[0].replace("**", "").replace("__", "").lstrip(" \t#>")
    if found["bullet"]:
        return Mark(start, found.end(), f"bullet {indent}", None, (0, 0), text)
    if found["letter"]:
        return Mark(
            start, found.end(), f"letter {indent}", ord(found["letter"].lower()) - 96, found.span("letter"), text
        )
    if found["digits"]:
        return Mark(start, found.end(), f"digits {indent}", int(found["digits"]), found.span("digits"), text)
    return Mark(start, found.end(), found["word"].lower(), value(found["number"]), found.span("number"), text)


def next_in_line(mark: Mark, before: Mark | None, end: int) -> Mark | None:
    """A mark within a line, if it is the next one of the list that the line is in: ``Step 1: Add. Step 2: Double.``"""
    if before is None or before.number is None or mark.number != before.number + 1 or mark.end >= end:
        return None
    return replace(mark, series=before.series) if mark.series.split()[0] == before.series.split()[0] else None


def value(number: str) -> int:
    return NUMERALS.index(number) + 1 if number in NUMERALS else int(number)


def written(number: int, like: str) -> str:
    """A number in the way of another one: ``2``, ``b``, ``B`` or ``二``."""
    if like in NUMERALS and 1 <= number <= len(NUMERALS):
        return NUMERALS[number - 1]
    if like.isalpha() and like.isascii():
        return chr((96 if like.islower() else 64) + number)
    return str(number)


def prose_bounds(record: Record, prose: Collection[str]) -> list[int]:
    """Where prose begins or ends inside of steps, and no bracket is open; white space goes with what is before it."""
    found, trace = [], record.trace
    ends = glued(trace, step_ends(trace))
    for before, after in pairwise(record.spans):
        if (before.kind in prose) != (after.kind in prose):
            at = after.start
            while at < len(trace) and trace[at].isspace():
                at += 1
            behind = bisect_right(ends, at)
            begin = ends[behind - 1] if behind else 0
            mark = mark_at(trace, begin, at)
            said = SAYS.search(trace, max(before.start, mark.end if mark else 0), at)
            if at < len(trace) and said and not is_open(trace[begin:at]):
                found.append(at)
    return found


def visible_end(trace: str, start: int, end: int) -> int:
    """Behind the last character in [start, end) that is no white space."""
    return start + len(trace[start:end].rstrip())


def connect(trace: str, units: Sequence[Unit], phrases: Phrases) -> None:
    """Find what each unit needs: the one before it where it begins with a pronoun, a step that it names."""
    numbered: dict[int, int] = {}
    before: int | None = None
    for at, unit in enumerate(units):
        said = trace[unit.body : unit.end]
        if before is not None and phrases.leans(said):
            unit.needs.add(before)
        for named in REFERENCE.finditer(said):
            if (item := numbered.get(value(named["number"]))) is not None:
                of_item = (i for i in range(item, min(at, item + FEW)) if units[i].item == item)
                unit.needs |= {i for i in of_item if not units[i].leads_in}
        if unit.mark is not None and unit.mark.number is not None:
            numbered[unit.mark.number] = at
        if not unit.leads_in:
            before = at
