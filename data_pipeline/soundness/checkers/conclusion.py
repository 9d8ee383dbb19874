"""Does the answer follow from the trace (``conclusion``)? It has to be a value that the trace comes to.

False is an answer, a number, that the trace names nowhere, not even rounded or as a percentage, where its last number
is the result of an equation: it has come to something else. Where it ends before its last computation, or names the
answer in an earlier step, that is not to be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tracestill.data_pipeline.segmentation.lexer import NUMBER, value_of
from tracestill.data_pipeline.soundness.checkers.finding import Finding, Trace

SPACED = re.compile(r"(?<=\d) (?=\d{3}\b)")  # 100 000
NUMBERS = re.compile(r"\d+(?:\.\d+)?")
PLAIN = re.compile(r"-?[$€£¥₹]?\s?-?(\d{1,3}(?:,\d{3})+|\d+)(\.\d+)?\s?%?(?:\s[^\W\d]+)?\.?")


def conclusion(trace: Trace) -> Iterator[Finding]:
    read = PLAIN.fullmatch(trace.answer.strip())
    if read is None or not trace.ends:
        return
    answer = float((read[1] + (read[2] or "")).replace(",", ""))
    lexed = trace.lexed
    numbers = [at for at, kind in enumerate(lexed.types) if kind == NUMBER]
    if not numbers:
        return
    at = numbers[-1]
    last = trace.step_at(lexed.starts[at])
    span = trace.starts[last], trace.ends[last]
    text = SPACED.sub("", trace.text[span[0] : span[1]])
    named = [value_of(lexed.texts[at]) for at in numbers]
    if any(same(float(one), answer) for one in NUMBERS.findall(text.replace(",", ""))) or same(named[-1], answer):
        yield Finding(*span, "holds")
    elif any(same(value, answer) for value in named):
        yield Finding(*span, "cannot_tell", f"the answer {trace.answer.strip()} stands in an earlier step")
    elif last + 1 == len(trace.ends) and any(
        one.holds and one.start <= lexed.starts[at] < one.end for one in trace.equations
    ):
        said = f"the trace comes to {lexed.texts[at]}, and says nothing of the answer {trace.answer.strip()}"
        yield Finding(*span, "false", said)
    else:
        yield Finding(*span, "cannot_tell", f"the answer {trace.answer.strip()} stands nowhere in the trace")


def same(value: float, answer: float) -> bool:
    """Whether a value of the trace may be told as the answer: equal, rounded, of cents, or a percentage."""
    near = 0.5 if answer == round(answer) else 0.006
    return any(v == answer or (abs(v) >= 1 and abs(v - answer) <= near) for v in (value, value * 100, value / 100))
