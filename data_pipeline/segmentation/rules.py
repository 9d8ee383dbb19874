"""Whole steps by English words and signs: ``segment.by: rules``, and ``lines`` where a line is a step.

Each step gets the kind of the first rule that holds:
1. check: it begins with, or says, that something is verified, wrong or repaired (``check``, ``wait``, ``mistake``…);
2. a step that says what to do and then does it (``First find the total: 3 + 4 = 7``) is cut at the colon before
   its first equation: plan, then derive;
3. derive: it holds an equation or an operation on two numbers;
4. plan: it begins with or holds words that decompose the task (``first``, ``let``, ``we need to``, ``step 2``…);
5. prose: everything else.
Nothing is cut below that: on human solutions almost all is ``derive``, which is why it is not the default.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tracestill.data_pipeline.segmentation.parts import Part, step_ends

LINE_END = re.compile(r"(?<=\S)[^\S\n]*\n\s*(?=\S)")
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


def rules(question: str, trace: str) -> list[Part]:
    """The steps of a trace, or the parts of one that is cut, each with its kind and the words that gave it."""
    return parts(trace, step_ends(trace))


def lines(question: str, trace: str) -> list[Part]:
    """As ``rules``, a line being a step, however many sentences it holds."""
    return parts(trace, [*(match.end() for match in LINE_END.finditer(trace)), *([len(trace)] if trace else [])])


def parts(trace: str, ends: Sequence[int]) -> list[Part]:
    found: list[Part] = []
    start = 0
    for end in ends:
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
