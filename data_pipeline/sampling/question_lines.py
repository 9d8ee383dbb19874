"""A file of questions, one JSON object a line: every line is used, a repetition, or rejected with its reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question, content_id, weight_fault
from tracestill.data_pipeline.guards.well_formed import json_fault
from tracestill.data_pipeline.sampling.rejected import Rejected
from tracestill.data_pipeline.selection.answers import same_answer

LONGEST = 1 << 26  # bytes of a line; the rest of a longer one is passed over
BOM = b"\xef\xbb\xbf"


class Bad(ValueError):
    """A line that cannot be used: ``reason``, and in words what was found and expected."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass
class Lines:
    """What a file holds; ``total`` = questions + duplicates + rejected, blank lines aside."""

    questions: list[Question] = field(default_factory=list)  # without a split
    duplicates: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    total: int = 0


@dataclass
class Same:
    """The lines that pose the same question."""

    question: Question
    lines: list[tuple[int, bytes]]
    other: tuple[str, str] | None = None  # reason and detail of the first line that says otherwise


def read_questions(path: Path) -> Lines:
    """Read ``question`` and ``gold`` of each line; ``group`` and ``weight`` too, further fields become metadata.

    A question with two gold answers, or two weights, is rejected in all its lines. Raises InputError if the
    file cannot be read.
    """
    found, same = Lines(), dict[str, Same]()
    try:
        for at, line in numbered(path):
            if not line.strip():
                continue
            found.total += 1
            try:
                question = question_of(line)
            except Bad as fault:
                found.rejected.append(rejected(path, at, line, fault.reason, str(fault)))
                continue
            held = same.setdefault(question.question_id, Same(question, []))
            held.lines.append((at, line))
            held.other = held.other or otherwise(held, at, question)
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from error
    for held in same.values():
        if held.other is None:
            found.questions.append(held.question)
            found.duplicates += len(held.lines) - 1
        else:
            found.rejected += [rejected(path, at, line, *held.other) for at, line in held.lines]
    found.rejected.sort(key=lambda each: int(each.where.rpartition(":")[2]))
    return found


def otherwise(held: Same, at: int, question: Question) -> tuple[str, str] | None:
    """Reason and detail, if line ``at`` contradicts the first line of its question."""
    first, start = held.question, f"the question of line {held.lines[0][0]} with another"
    if not same_answer(question.gold, first.gold):
        detail = f"{start} gold answer in line {at} ({question.gold!r}, not {first.gold!r}); keep one of them"
        return "other_gold", detail
    if question.weight != first.weight:
        return "other_weight", f"{start} weight in line {at} ({question.weight}, not {first.weight}); keep one of them"
    return None


def numbered(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file from 1 on, their ends included, of each at most LONGEST + 1 bytes."""
    with path.open("rb") as file:
        at = 0
        while line := file.readline(LONGEST + 1):
            at += 1
            rest = line
            while len(rest) > LONGEST and not rest.endswith(b"\n"):
                rest = file.readline(LONGEST + 1)
            yield at, line.removeprefix(BOM) if at == 1 else line


def rejected(path: Path, at: int, line: bytes, reason: str, detail: str) -> Rejected:
    return Rejected(f"{path}:{at}", reason, detail, line.decode(errors="backslashreplace").rstrip("\r\n"))


def question_of(line: bytes) -> Question:
    """The question of a line. Raises Bad."""
    if len(line.rstrip(b"\r\n")) > LONGEST:
        raise Bad("too_long", f"a line of more than {LONGEST:,} bytes")
    try:
        data = json.loads(line.decode(), object_pairs_hook=once)
    except UnicodeDecodeError as error:
        raise Bad("not_utf8", f"not UTF-8 (byte 0x{line[error.start]:02x} at position {error.start})") from error
    except RecursionError as error:
        raise Bad("nested", "nested deeper than JSON is read") from error
    except Bad:
        raise
    except ValueError as error:
        raise Bad("not_json", f"not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise Bad("not_an_object", f"expected an object with question and gold, got {type(data).__name__}")
    if wrong := json_fault(data):
        raise Bad(*wrong)
    text, gold, group = data.pop("question", None), data.pop("gold", None), data.pop("group", "")
    if not isinstance(text, str) or not text.strip():
        raise Bad("no_question", f"'question' must be a text, got {text!r:.80}")
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or not str(gold).strip():
        raise Bad("no_gold", f"'gold' must be a text or a number, got {gold!r:.80}")
    if isinstance(gold, float) and not math.isfinite(gold):
        raise Bad("not_finite", f"'gold' must be a text or a finite number, got {gold}")
    weight = data.pop("weight", 1.0)
    if fault := weight_fault(weight):
        raise Bad("bad_weight", f"'weight': {fault}")
    return Question(content_id(text), text, str(gold), "", "" if group is None else str(group), data, float(weight))


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON. Raises Bad if a key stands in it twice: one of the values would be lost."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Bad("not_json", f"the key {key!r:.80} stands twice in an object")
        found[key] = value
    return found
