"""Rule-based segmentation of a trace: steps (sentences and lines), and spans with a kind each.

Steps end at a line break, or after ``.``, ``!`` or ``?`` followed by white space, unless the stop belongs to an
abbreviation or to the number of a list item. White space after a step belongs to it.

Each step gets the kind of the first rule that holds:
1. check: it begins with, or says, that something is verified, wrong or repaired (``check``, ``wait``, ``mistake``…);
2. a step that says what to do and then does it (``First find the total: 3 + 4 = 7``) is cut at the colon before
   its first equation: plan, then derive;
3. derive: it holds an equation or an operation on two numbers;
4. plan: it begins with or holds words that decompose the task (``first``, ``let``, ``we need to``, ``step 2``…);
5. prose: everything else.
Neighbouring steps of the same kind form one span.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Span

STEP_END = re.compile(r"\n\s*|[.!?][\"')\]]*\s+")
ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|prof|st|vs|etc|no|fig|eq|e\.g|i\.e)|(?:^|\n)\s*\d{1,3})\.$", re.I)
CHECK = re.compile(
    r"^\W*(?:check\b|wait\b|actually\b|hmm\b|oops\b|no,|sanity|correction\b|correcting\b)"
    r"|\b(?:double[- ]check\w*|re-?check\w*|re-?comput\w*|verif(?:y|ies|ied|ication)|mistakes?|let me check"
    r"|to check|is (?:wrong|incorrect|not right|correct)|that's (?:wrong|right|not right)|made an error)\b",
    re.I,
)
DERIVE = re.compile(r"=|\d\s*(?:[-+*/^×÷·]|\\times|\bx\b|\btimes\b|\bplus\b|\bminus\b|\bmod\b)\s*[$€£]?\d")
PLAN = re.compile(
    r"^\W*(?:\d{1,3}[.)]\s+)?(?:first|second|third|next|finally|to (?:find|solve|get|answer|do)|plan|order|step \d+"
    r"|(?:then|now) (?:find|figure|calculate|compute|determine|add|subtract|multiply|divide)"
    r"|start by|begin by|let(?:'s| us)?\b|now (?:find|we|i)"
    r"|we (?:need|want|have to|must|can)|i (?:need|want|have to|must|will)"
    r"|our goal|the (?:goal|task|question))\b"
    r"|\b(?:we need to|i need to|need to find|let [a-z] (?:be|denote))\b",
    re.I,
)


def step_ends(trace: str) -> tuple[int, ...]:
    """Where each step ends: increasing offsets, the last is ``len(trace)``; empty for an empty trace."""
    ends = []
    for match in STEP_END.finditer(trace):
        is_line = match[0].startswith("\n")
        if not is_line and ABBREVIATION.search(trace, max(0, match.start() - 11), match.start() + 1):
            continue
        ends.append(match.end())
    if trace and (not ends or ends[-1] < len(trace)):
        ends.append(len(trace))
    if ends and not trace[: ends[0]].strip():  # white space before the first step belongs to it
        ends = ends[1:] or [len(trace)]
    return tuple(ends)


def step_of(ends: Sequence[int], character: int) -> int:
    """The index of the step that holds a character of the trace."""
    return bisect_right(ends, character)


class Part(NamedTuple):
    """Characters up to ``end`` of a trace that one rule decided on."""

    kind: str
    end: int
    why: str  # the words that the rule found; empty for prose, where none did


def segment(trace: str) -> tuple[Span, ...]:
    """Spans of a trace by the rules above: sorted, without overlap, covering it wholly; none for an empty trace."""
    spans: list[Span] = []
    start = 0
    for part in parts(trace):
        if spans and spans[-1].kind == part.kind:
            spans[-1] = Span(spans[-1].start, part.end, part.kind)
        else:
            spans.append(Span(start, part.end, part.kind))
        start = part.end
    return tuple(spans)


def parts(trace: str) -> list[Part]:
    """The steps of a trace, or the parts of one that is cut, each with its kind and what gave it."""
    found: list[Part] = []
    start = 0
    for end in step_ends(trace):
        found += classify(trace, start, end)
        start = end
    return found


def classify(trace: str, start: int, end: int) -> list[Part]:
    """The parts of the step trace[start:end]."""
    step = trace[start:end]
    if checks := CHECK.search(step):
        return [Part("check", end, checks[0])]
    if derives := DERIVE.search(step):
        colon = step.rfind(": ", 0, derives.end())
        if colon > 0 and (plans := PLAN.search(step[:colon])) and not DERIVE.search(step[:colon]):
            return [Part("plan", start + colon + 1, plans[0]), Part("derive", end, derives[0])]
        return [Part("derive", end, derives[0])]
    plans = PLAN.search(step)
    return [Part("plan", end, plans[0]) if plans else Part("prose", end, "")]


def span_fault(trace: str, spans: Sequence[Span], kinds: Collection[str]) -> str | None:
    """What is wrong with spans, which must be sorted, cover the trace and name known kinds; None if nothing."""
    at = 0
    for span in spans:
        if span.kind not in kinds:
            return f"span kind '{span.kind}' is no kind of the trace ({', '.join(kinds)})"
        if span.start != at or span.end <= span.start:
            return f"span [{span.start}, {span.end}) should begin at {at} and hold a character"
        at = span.end
    return None if at == len(trace) else f"spans end at {at}, the trace at {len(trace)}"
