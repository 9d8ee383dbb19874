"""Traces labelled by hand, and how far a way of segmenting agrees with them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Span
from tracestill.data_pipeline.segmentation.parts import Part

CUT = ("plan", "expression", "result", "statement", "check", "prose")  # kinds that a trace is cut into


class Labelled(NamedTuple):
    """A trace with the stretches that somebody labelled, in order, without overlap; there may be gaps."""

    question: str
    trace: str
    spans: tuple[Span, ...]


class Score(NamedTuple):
    """Of one kind: clauses that have it, and how many of those found, and of those said, are right."""

    clauses: int
    precision: float
    recall: float
    f1: float


def read_labels(path: Path) -> list[Labelled]:
    """Labelled traces of a JSON Lines file: ``{"question": …, "trace": …, "spans": [[start, end, kind], …]}``.

    Raises InputError naming the file and line, what was found and what was expected.
    """
    found = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # a text may hold other line breaks
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(labelled(json.loads(line)))
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
            expected = "expected question, trace and spans, each [start, end, kind]"
            raise InputError(f"{path}, line {number}: {what}; {expected}") from error
    if not found:
        raise InputError(f"{path}: holds no labelled trace")
    return found


def labelled(row: Any) -> Labelled:
    """Raises ValueError, TypeError or KeyError for a row that is none."""
    if not isinstance(row, dict):
        raise ValueError(f"found {type(row).__name__}")
    question, trace = row["question"], row["trace"]
    if not isinstance(question, str) or not isinstance(trace, str):
        raise ValueError("question and trace must be texts")
    spans = tuple(Span(int(start), int(end), str(kind)) for start, end, kind in row["spans"])
    at = 0
    for span in spans:
        if span.kind not in Kinds().members("trace"):
            raise ValueError(f"'{span.kind}' is no kind of a trace ({', '.join(Kinds().members('trace'))})")
        if not at <= span.start < span.end <= len(trace):
            raise ValueError(f"span [{span.start}, {span.end}) should lie in [{at}, {len(trace)})")
        at = span.end
    return Labelled(question, trace, spans)


def agreement(traces: Iterable[Labelled], parts: Callable[[str, str], Sequence[Part]]) -> Counter[tuple[str, str]]:
    """(label, what most of its visible characters were given) -> clauses."""
    found = Counter[tuple[str, str]]()
    for one in traces:
        given = kinds_of(parts(one.question, one.trace))
        for span in one.spans:
            if said := majority(one.trace, given, span.start, span.end):
                found[span.kind, said] += 1
    return found


def kinds_of(parts: Iterable[Part]) -> list[str]:
    """The kind of each character."""
    kinds: list[str] = []
    for part in parts:
        kinds += [part.kind] * (part.end - len(kinds))
    return kinds


def majority(trace: str, kinds: Sequence[str], start: int, end: int) -> str:
    """The kind that most visible characters have; "" if there is none."""
    counts = Counter(kinds[at] for at in range(start, end) if not trace[at].isspace())
    return counts.most_common(1)[0][0] if counts else ""


def scores(found: Counter[tuple[str, str]]) -> dict[str, Score]:
    """Of each kind that is among the labels."""
    of_label, of_said = Counter[str](), Counter[str]()
    for (label, said), count in found.items():
        of_label[label] += count
        of_said[said] += count
    result = {}
    for kind in (*CUT, *sorted(of_label.keys() - set(CUT))):
        if clauses := of_label[kind]:
            right = found[kind, kind]
            precision, recall = right / max(1, of_said[kind]), right / clauses
            result[kind] = Score(clauses, precision, recall, 2 * right / (clauses + of_said[kind]))
    return result


def macro_f1(found: Counter[tuple[str, str]]) -> float:
    held = scores(found).values()
    return sum(score.f1 for score in held) / len(held) if held else 0.0
