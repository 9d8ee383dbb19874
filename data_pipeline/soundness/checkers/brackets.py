"""Brackets closed one by one (``brackets``): each step reads a bracket and says the stack; then what is left to close.

    [ ; stack: < [        ] ; stack: <        The final stack is "<".        So the answer is >

A step is false if the stack that it says does not follow from the one before it, if the bracket that it reads is not
the question's next, or if what is said at the end does not close the last stack. After a false step the trace is
followed from what it says itself. Nothing is said of a trace without such lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}
ALL = "".join([*PAIRS, *PAIRS.values()])
RUN = r"[()\[\]{}<>](?:[ \t]*[()\[\]{}<>])*"
LINE = re.compile(rf"(?m)^[ \t]*(?P<read>[()\[\]{{}}<>])[ \t]*;[ \t]*stack:[ \t]*(?P<stack>empty|{RUN}|)")
START = re.compile(r"(?mi)^[ \t]*stack:[ \t]*empty")
FINAL = re.compile(rf"final stack is (?:\"(?P<stack>{RUN}|)\"|(?P<empty>empty))")
POP = re.compile(r"need to pop out (?P<said>(?:\"[^\"\n]*\"|and|,|\s)+)(?=one by one|\.|$)", re.M)
ANSWER = re.compile(r"(?:So,? we need|answer is)[ \t:]*(?P<said>(?:[^\w.\n]|and\b)*)")


def brackets(trace: Trace) -> Iterator[Finding]:
    lines = list(LINE.finditer(trace.text))
    if not lines or START.search(trace.text) is None:
        return
    due = [sign for sign in trace.question if sign in ALL]
    stack = ""
    for at, line in enumerate(lines):
        read, said = line["read"], signs(line["stack"])
        follows, known = after(stack, read)
        if due and (at >= len(due) or due[at] != read):
            expected = f"'{due[at]}'" if at < len(due) else "no more"
            yield Finding(*line.span(), "false", f"reads '{read}' where the question has {expected}")
        elif not known:
            yield Finding(*line.span(), "false", f"'{read}' closes nothing of the stack '{stack}'")
        else:
            right = said == follows
            detail = "" if right else f"'{read}' makes the stack '{stack}' '{follows}', not '{said}'"
            yield Finding(*line.span(), "holds" if right else "false", detail)
        stack = said
    rest = lines[-1].end()
    left = len(due) - len(lines)
    for end in FINAL.finditer(trace.text, rest):
        said = signs(end["stack"] or "")
        if left > 0:
            yield Finding(*end.span(), "false", f"{left} brackets of the question have not been read")
        elif said != stack:
            yield Finding(*end.span(), "false", f"the stack is '{stack}', not '{said}'")
        else:
            yield Finding(*end.span(), "holds")
        stack, left = said, 0
    for end in POP.finditer(trace.text, rest):
        said = signs(end["said"])
        if said:
            right = said == stack[::-1]
            detail = "" if right else f"'{stack[::-1]}' comes off the stack '{stack}', not '{said}'"
            yield Finding(*end.span(), "holds" if right else "false", detail)
            stack = said[::-1] if set(said) <= set(PAIRS) else stack
    closes = "".join(PAIRS.get(sign, "?") for sign in reversed(stack))
    for end in ANSWER.finditer(trace.text, rest):
        said = signs(end["said"])
        if said or trace.text[end.end() : end.end() + 1] in ("", ".", "\n"):
            right = said == closes
            detail = "" if right else f"'{closes}' is left to close, not '{said}'"
            yield Finding(*end.span(), "holds" if right else "false", detail)
            closes = said


def signs(text: str) -> str:
    """The brackets of a text."""
    return "".join(sign for sign in text if sign in ALL)


def after(stack: str, read: str) -> tuple[str, bool]:
    """The stack when a bracket has been read, and whether it can be read."""
    if read in PAIRS:
        return stack + read, True
    if stack and PAIRS.get(stack[-1]) == read:
        return stack[:-1], True
    return stack, False
