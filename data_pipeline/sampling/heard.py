"""Whether what a teacher said can be kept as a record: text, whole characters, spans that cover the trace, a weight."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from tracestill.data_pipeline.base.schema import Span, span_fault, weight_fault
from tracestill.data_pipeline.guards.secret import mask
from tracestill.data_pipeline.guards.well_formed import text_fault
from tracestill.data_pipeline.sampling.teachers import FAILURES, Failed, Said, Solution

NO_SOLUTION = "not_a_solution"
REASONS = (NO_SOLUTION, "not_text", "bad_spans", "bad_weight", *FAILURES)


@dataclass(frozen=True)
class Unusable:
    """Something said that makes no record, for one of ``REASONS``."""

    reason: str
    detail: str
    said: str  # ASCII, as Python shows the value


def heard(said: Any) -> Solution | Said | Unusable:
    """A text as it is, the solution with the teacher's spans (none where it gave none), or why it is none of them.

    Kinds may have any name.
    """
    if isinstance(said, Failed):
        return Unusable(said.reason, mask(said.detail), "")
    fault = said_fault(said) if isinstance(said, Said) else solution_fault(said)
    if fault is None and isinstance(said, Said):
        return replace(said, weight=float(said.weight))
    if fault is None and said.spans is None:
        return replace(said, spans=(), weight=float(said.weight))
    if fault is None:
        spans = tuple(said.spans)
        if wrong := span_fault(said.trace, spans, {span.kind for span in spans}):
            fault = "bad_spans", wrong
        else:
            return replace(said, spans=spans, weight=float(said.weight))
    shown = ascii(said)
    return Unusable(*fault, shown if is_text(said) else mask(shown))  # a trace is kept as it is


def is_text(said: Any) -> bool:
    """Whether it holds texts and spans, and nothing that may be the answer of a server with its headers."""
    if type(said) is Said:
        return all(type(text) is str for text in (said.raw, said.reasoning, said.answer or "", said.finish))
    if type(said) is not Solution or type(said.trace) is not str or type(said.answer) is not str:
        return False
    if not isinstance(said.weight, int | float):
        return False
    return said.spans is None or (isinstance(said.spans, list | tuple) and all(is_span(span) for span in said.spans))


def said_fault(said: Said) -> tuple[str, str] | None:
    for name in ("raw", "reasoning", "answer", "finish"):
        text = getattr(said, name)
        if name == "answer" and text is None:
            continue
        if not isinstance(text, str):
            return "not_text", f"its {name} must be a text, got {type(text).__name__}"
        if wrong := text_fault(text):
            return "not_text", f"its {name} holds {wrong}"
    if said.details is not None:
        try:
            json.dumps(said.details, allow_nan=False)  # half a character is escaped, and does no harm
        except (TypeError, ValueError, RecursionError) as error:
            return "not_text", f"its details are no JSON: {error}"
    if wrong := weight_fault(said.weight):
        return "bad_weight", f"its weight: {wrong}"
    if said.spans is None:
        return None
    if not isinstance(said.spans, list | tuple) or not all(is_span(span) for span in said.spans):
        return "bad_spans", "its spans must be Spans of two whole numbers and a kind, or None"
    uncovered = span_fault(said.reasoning or said.raw, said.spans, {span.kind for span in said.spans})
    return ("bad_spans", uncovered) if uncovered else None


def solution_fault(said: Any) -> tuple[str, str] | None:
    if not isinstance(said, Solution):
        return NO_SOLUTION, f"expected a Solution, got {type(said).__name__}"
    for name in ("trace", "answer"):
        text = getattr(said, name)
        if not isinstance(text, str):
            return "not_text", f"its {name} must be a text, got {type(text).__name__}"
        if wrong := text_fault(text):
            return "not_text", f"its {name} holds {wrong}"
    if wrong := weight_fault(said.weight):
        return "bad_weight", f"its weight: {wrong}"
    if said.spans is None:
        return None
    if not isinstance(said.spans, list | tuple) or not all(is_span(span) for span in said.spans):
        return "bad_spans", "its spans must be Spans of two whole numbers and a kind, or None"
    return None


def is_span(span: Any) -> bool:
    return isinstance(span, Span) and type(span.start) is type(span.end) is int and isinstance(span.kind, str)
