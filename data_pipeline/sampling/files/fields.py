"""Which field of a row means what: names, dotted paths into it, and templates."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

MISSING: Any = object()
NONE = "none"  # instead of a name: what is recognised is not to be looked for
SLOT = re.compile(r"\{([^{}]+)\}")

Getter = Callable[[Mapping[str, Any]], Any]


class FieldsConfig(BaseModel):
    """Each is a field's name, a dotted path (``meta.answer``, ``choices.0.text``), a template of such
    (``{instruction}\\n\\n{input}``; a list stands there in lines), or a name with a ``*`` for a number
    (``solution_*``), which makes a list of all those fields. Null: as recognised; none: it is not looked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str | None = Field(None, description="what is asked: a text, or a list of messages")
    trace: str | None = Field(
        None, description="what a teacher wrote, reasoning and answer: a text, a list of messages, or a list of several"
    )
    reasoning: str | None = Field(None, description="the thought, where it stands apart from the rest of the text")
    answer: str | None = Field(None, description="the answer that the trace gives, where it stands apart from the text")
    gold: str | None = Field(None, description="the reference answer; without it, what the traces say most often")
    gold_pattern: str | None = Field(
        None, description="a regular expression whose first group is the reference answer in what `gold` names"
    )
    messages: str | None = Field(None, description="a conversation: question and trace are in it")
    spans: str | None = Field(
        None, description="spans of the trace: a list of [start, end, kind] that covers it (`reasoning`, or the text)"
    )
    system: str | None = Field(None, description="the system prompt: the record's style")
    weight: str | None = Field(None, description="how much the record counts, finite and >= 0")
    teacher: str | None = Field(None, description="who wrote the trace")
    group: str | None = Field(None, description="questions of a group go into one split")
    split: str | None = Field(None, description="train, validation or test")
    finish: str | None = Field(None, description="why the text ended: length means that it was cut off")
    metadata: tuple[str, ...] | None = Field(
        None,
        description="fields that your own teachers read; null: all that are left, and where there are "
        "traces only `verifier`",
    )

    @field_validator("gold_pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            if pattern is not None and not re.compile(pattern, re.M).groups:
                raise ValueError("has no group; put the answer in parentheses")
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        return pattern

    @property
    def has_traces(self) -> bool:
        return any((self.trace, self.reasoning, self.messages))

    def said(self) -> dict[str, str]:
        """The fields that are named."""
        return {name: value for name, value in self.model_dump(exclude={"metadata"}).items() if value}


def getter(spec: str) -> Getter:
    """The function that finds what a field's name, path or template means in a row: MISSING where it is not there."""
    if SLOT.search(spec):
        parts = {name: getter(name) for name in SLOT.findall(spec)}

        def fill(row: Mapping[str, Any]) -> Any:
            found = {name: get(row) for name, get in parts.items()}
            if all(value is MISSING or value is None for value in found.values()):
                return MISSING
            return SLOT.sub(lambda match: in_lines(found[match[1]]), spec).strip()

        return fill
    if "*" in spec:
        numbered = numbered_like(spec)

        def collect(row: Mapping[str, Any]) -> Any:
            found = sorted((int(match[1]), name) for name in row if (match := numbered.fullmatch(name)))
            return [row[name] for _, name in found] if found else MISSING

        return collect
    path = spec.split(".")

    def find(row: Mapping[str, Any]) -> Any:
        if spec in row:
            return row[spec]
        held: Any = row
        for part in path:
            if isinstance(held, Mapping) and part in held:
                held = held[part]
            elif isinstance(held, list) and part.lstrip("-").isdecimal() and -len(held) <= int(part) < len(held):
                held = held[int(part)]
            else:
                return MISSING
        return held

    return find


def numbered_like(spec: str) -> re.Pattern[str]:
    """What the names of fields look like that a name with a ``*`` means; its group is their number."""
    before, _, after = spec.partition("*")
    return re.compile(rf"{re.escape(before)}(\d+){re.escape(after)}")


def in_lines(value: Any) -> str:
    if value is MISSING or value is None:
        return ""
    if isinstance(value, list):
        return "\n".join(in_lines(item) for item in value)
    return value if isinstance(value, str) else str(value)


def names_in(spec: str) -> set[str]:
    """The fields of a row that a name, path or template looks at."""
    slots = SLOT.findall(spec) or [spec]
    return set(slots) | {slot.partition(".")[0] for slot in slots}
