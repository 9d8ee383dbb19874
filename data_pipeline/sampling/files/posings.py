"""What a row says: a question, and the traces that somebody wrote to it. What cannot be used is said by reason."""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from tracestill.data_pipeline.answers.verifier import COLUMN
from tracestill.data_pipeline.base.schema import Span, span_fault, weight_fault
from tracestill.data_pipeline.guards.well_formed import text_fault
from tracestill.data_pipeline.sampling.files.fields import MISSING, FieldsConfig, getter, names_in
from tracestill.data_pipeline.sampling.files.formats import SPLITS
from tracestill.data_pipeline.sampling.files.lines import Bad
from tracestill.data_pipeline.sampling.files.messages import THOUGHTS, is_messages, talk_of
from tracestill.data_pipeline.sampling.teachers import Said


class Written(NamedTuple):
    """One trace of a row."""

    said: Said
    teacher: str = ""
    system: str = ""


class Posing(NamedTuple):
    """What a row says; ``bad``: traces of a list of several that cannot be used, by position, reason and detail."""

    question: str
    gold: str | None
    group: str
    split: str
    weight: float | None  # of the question; None if the row says none
    metadata: dict[str, Any]
    written: list[Written]
    bad: list[tuple[int, str, str]]


class Reading:
    """Reads rows by the fields of a file."""

    def __init__(self, fields: FieldsConfig, *, with_traces: bool = True) -> None:
        self.fields, self.with_traces = fields, with_traces
        self.get = {name: getter(spec) for name, spec in fields.said().items() if name != "gold_pattern"}
        self.pattern = re.compile(fields.gold_pattern, re.M) if fields.gold_pattern else None
        self.used = {name for spec in fields.said().values() for name in names_in(spec)}

    def value(self, name: str, row: dict[str, Any]) -> Any:
        get = self.get.get(name)
        found = MISSING if get is None else get(row)
        return None if found is MISSING else found

    def __call__(self, row: dict[str, Any]) -> Posing:
        """Raises Bad."""
        written: list[Written] = []
        bad: list[tuple[int, str, str]] = []
        asked = self.value("messages", row) if "messages" in self.get else self.value("question", row)
        system = self.short("system", row)
        talk = None
        if "messages" in self.get or is_messages(asked):
            if not is_messages(asked):
                raise Bad("no_question", f"'{self.fields.messages}' must be a list of messages, got {asked!r:.80}")
            talk = talk_of(asked, self.fields.messages or str(self.fields.question))
            question, system = talk.question, system or talk.system
        else:
            question = asked
        question = self.text("question", question)
        if self.fields.has_traces:
            written, bad = self.traces(row, talk.answer if talk and "messages" in self.get else None, system)
        return Posing(
            question,
            self.gold(row),
            self.short("group", row),
            self.split(row),
            None
            if (self.fields.has_traces and self.with_traces)
            or "weight" not in self.get
            or self.value("weight", row) is None
            else self.weight(self.get["weight"](row)),
            self.metadata(row),
            written,
            bad,
        )

    def text(self, name: str, value: Any) -> str:
        """A text of a row. Raises Bad."""
        spec = str(getattr(self.fields, name) or self.fields.messages)
        if not isinstance(value, str) or not value.strip():
            raise Bad(
                "no_question" if name == "question" else f"no_{name}", f"'{spec}' must be a text, got {value!r:.80}"
            )
        if wrong := text_fault(value):
            raise Bad("not_text", f"{spec} holds {wrong}")
        return without_nul(spec, value)

    def short(self, name: str, row: dict[str, Any]) -> str:
        """A name that may be missing. Raises Bad for a list or an object."""
        value = self.value(name, row)
        if value is None:
            return ""
        if isinstance(value, list | dict):
            raise Bad("not_text", f"'{getattr(self.fields, name)}' must be a text, got {type(value).__name__}")
        return without_nul(getattr(self.fields, name), str(value))

    def gold(self, row: dict[str, Any]) -> str | None:
        """The reference answer; None if the traces have to say it. Raises Bad."""
        spec = self.fields.gold
        if spec is None:
            if self.fields.has_traces and self.pattern is None:
                return None
            names = ", ".join(sorted(set(row) - self.used))
            raise Bad(
                "no_gold",
                f"no field is known to hold a trace or a gold answer; there are {names or 'no others'!s:.300}; "
                "name one by fields.trace or fields.gold",
            )
        value = self.value("gold", row)
        if isinstance(value, list) and len(value) == 1 and isinstance(value[0], str):  # as some data sets write it
            value = value[0]
        if self.pattern is not None and isinstance(value, str):
            found = [match for match in self.pattern.finditer(value) if match[1]]
            if not found:
                raise Bad("no_gold", f"fields.gold_pattern does not match '{spec}': {value[-60:]!r}")
            value = found[-1][1]
        if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
            raise Bad("no_gold", f"'{spec}' must be a text or a number, got {value!r:.80}")
        if isinstance(value, float) and not math.isfinite(value):
            raise Bad("not_finite", f"'{spec}' must be a text or a finite number, got {value}")
        if str(value).strip().lower() == "nan":  # as tables write it
            raise Bad("not_finite", f"'{spec}' must be a text or a finite number, got {value!r}")
        return without_nul(spec, str(value))

    def split(self, row: dict[str, Any]) -> str:
        said = self.short("split", row)
        if said and said.strip().lower() not in SPLITS:
            raise Bad("bad_split", f"'{self.fields.split}' must be one of {', '.join(SPLITS)}, got {said!r:.40}")
        return SPLITS.get(said.strip().lower(), "")

    def weight(self, value: Any) -> float:
        if value is MISSING or value is None:  # tables leave out what is null
            return 1.0
        if wrong := weight_fault(value):
            raise Bad("bad_weight", f"'{self.fields.weight}': {wrong}")
        return float(value)

    def metadata(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.fields.metadata is not None:
            return {name: row[name] for name in self.fields.metadata if name in row}
        left = {name: value for name, value in row.items() if name not in self.used}
        return {name: left[name] for name in (COLUMN,) if name in left} if self.fields.has_traces else left

    def spans(self, value: Any, text: str, at: int, count: int) -> tuple[Span, ...] | None:
        """The spans of a text, the one at ``at`` of ``count``; None if the row gives none. Raises Bad."""
        if value is None:
            return None
        try:
            given = value[at] if count > 1 else value
            rows = [(s["start"], s["end"], s["kind"]) if isinstance(s, dict) else s for s in given]
            found = tuple(Span(start, end, kind) for start, end, kind in rows)
            fault = span_fault(text, found, {span.kind for span in found})
        except (TypeError, ValueError, KeyError, IndexError):
            fault = f"expected [start, end, kind] of each stretch, got {value!r:.80}"
        if fault:
            raise Bad("bad_spans", f"'{self.fields.spans}': {fault}")
        return found

    def traces(self, row: dict[str, Any], last: Any, system: str) -> tuple[list[Written], list[tuple[int, str, str]]]:
        """The traces of a row. Raises Bad if there is none that can be used."""
        spec = self.fields.trace or self.fields.reasoning or self.fields.messages
        if last is not None:
            values: list[Any] = [last]
        elif "messages" in self.get:
            raise Bad("no_trace", f"'{spec}' ends without a message of the assistant")
        else:
            value = self.value("trace", row) if self.fields.trace else ""
            values = value if isinstance(value, list) and not is_messages(value) else [value]
        found, bad = [], []
        for at, value in enumerate(values):
            try:
                found.append(self.one(row, value, at, len(values), system))
            except Bad as error:
                bad.append((at, error.reason, str(error)))
        if not found:
            raise Bad(*(bad[0][1:] if bad else ("no_trace", f"'{spec}' holds no trace, got {values!r:.80}")))
        return found, bad

    def one(self, row: dict[str, Any], value: Any, at: int, count: int, system: str) -> Written:
        """One of ``count`` traces: what lists of as many hold beside it belongs to it. Raises Bad."""

        def beside(name: str, otherwise: Any = None) -> Any:
            held = self.get[name](row) if name in self.get else MISSING
            if held is MISSING:
                return otherwise
            return held[at] if isinstance(held, list) and len(held) == count and (count > 1 or held) else held

        reasoning = beside("reasoning")
        if is_messages(value):
            value = talk_of([{"role": "user", "content": "x"}, *value], str(self.fields.trace)).answer
        answer, finish, teacher = beside("answer"), beside("finish"), beside("teacher")
        if isinstance(value, dict):  # as a server gives it
            finish = finish or value.get("finish_reason")
            reasoning = reasoning or next((value[name] for name in THOUGHTS if isinstance(value.get(name), str)), None)
            value = value.get("content", value.get("text", value.get("value")))
        if value is not None and not isinstance(value, str) and hasattr(value, "reasoning"):
            reasoning, value = reasoning or value.reasoning, value.text
        if isinstance(reasoning, list):
            reasoning = "\n".join(item for item in reasoning if isinstance(item, str))
        if reasoning is not None and not isinstance(reasoning, str):
            raise Bad("no_trace", f"'{self.fields.reasoning}' must be a text, got {reasoning!r:.80}")
        if not (reasoning and value == ""):
            value = self.text("trace", value)
        reasoning = self.text("reasoning", reasoning) if reasoning and reasoning.strip() else ""
        if self.fields.answer and (isinstance(answer, bool | list | dict) or answer is None or not str(answer).strip()):
            raise Bad("no_answer", f"'{self.fields.answer}' must be a text or a number, got {answer!r:.80}")
        said = Said(
            value,
            reasoning,
            None if answer is None else self.text("answer", str(answer)),
            finish if isinstance(finish, str) else "",
            self.weight(beside("weight", MISSING)) if self.with_traces else 1.0,
            self.spans(self.value("spans", row), reasoning or value, at, count),
        )
        return Written(said, teacher if isinstance(teacher, str) else "", system)


def without_nul(name: str, text: str) -> str:
    """A text. Raises Bad for one with a NUL in it, where other programs would end it."""
    if "\0" in text:
        raise Bad("not_text", f"{name} holds a NUL at position {text.index(chr(0))}")
    return text
