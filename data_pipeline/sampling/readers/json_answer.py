"""A reader of JSON with reasoning and answer: in a fence or bare, among prose, with raw line breaks, or torn."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.answers.find import numbers_in, trimmed
from tracestill.data_pipeline.sampling.readers.marks import Marked, said

ANSWERS = ("answer", "final_answer", "finalanswer", "final answer", "result", "solution")
REASONS = ("reasoning", "reason", "explanation", "rationale", "steps", "solution", "thought", "thoughts", "thinking")
KEY = re.compile(r"[\"'“”](?:final[ _]?)?answer[\"'“”]\s*:\s*", re.I)
OTHER_KEY = re.compile(r"[\"'“”](?:result|solution)[\"'“”]\s*:\s*", re.I)  # of an answer, beside reasoning
REASON_KEY = re.compile(
    r"[\"'“”](?:reasoning|reason|explanation|rationale|steps|thoughts?|thinking)[\"'“”]\s*:\s*", re.I
)
QUOTED = re.compile(r"([\"'“])(.*?)(?<!\\)(?:[\"'”](?=\s*(?:[,}\]]|\Z|\n|```))|\Z)", re.S)
BARE = re.compile(r"[^\n,}\]\"`]*(?:,\d{3}[^\n,}\]\"`]*)*")
ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.S)
ESCAPES = {"n": "\n", "t": "\t", "r": "", "b": "", "f": ""}
LONGEST = 1 << 20  # characters of what is taken for JSON
OBJECTS = 64  # beginnings of an object, and keys, that are tried
LENIENT = json.JSONDecoder(strict=False)  # models write line breaks into texts as they are


class JsonOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    take: Literal["last", "first"] = Field("last", description="which of several answers counts")
    number: Literal["result", "first"] = Field(
        "result", description="of `35/7 = 5`, which number: what stands behind the sign, or the first one"
    )


def json_answer(text: str, numeric: bool | None, options: JsonOptions = JsonOptions()) -> Marked | None:
    """The object with an answer, or, where none can be parsed, the text behind the key ``answer``.

    An answer in which there is no number where one is asked for ("cannot be determined") is an answer all the same.
    """
    if len(text) > LONGEST or not (keys := keys_of(text)):
        return None
    if options.take == "last":
        for data, start, end in objects(text):
            answer = first_of(data, ANSWERS)
            if answer is None or not (found := in_value(as_text(answer), numeric, options)):
                continue
            reason = first_of(data, tuple(key for key in REASONS if data.get(key) is not answer))
            trace = as_text(reason) or text[:start].removesuffix("```json\n")
            return Marked(trace.strip(), found, after_fence(text[end:]))
        keys.reverse()
    return next(filter(None, (torn(text, key, numeric, options) for key in keys[:OBJECTS])), None)


def keys_of(text: str) -> list[re.Match[str]]:
    """Where keys of answers stand."""
    return list(KEY.finditer(text)) or (list(OTHER_KEY.finditer(text)) if REASON_KEY.search(text) else [])


def cut_off(text: str) -> bool:
    """Whether a text begins an object with reasoning and ends before its answer."""
    if (begins := REASON_KEY.search(text)) is None or keys_of(text):
        return False
    try:
        LENIENT.raw_decode(text, text.rfind("{", 0, begins.start()) if "{" in text[: begins.start()] else 0)
    except (ValueError, RecursionError):
        return True
    return False  # it is whole, and about something else


def in_value(value: str, numeric: bool | None, options: JsonOptions) -> str:
    if numeric and options.number == "first" and (numbers := numbers_in(value)):
        return numbers[0]
    return said(value, numeric) or trimmed(value)


def objects(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    """Objects of a text that can be parsed, the last first, with where they stand."""
    found, at, tries = [], text.find("{"), 0
    while at >= 0 and tries < OBJECTS:
        tries += 1
        try:
            data, end = LENIENT.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if isinstance(data, dict):
                found.append((data, at, end))
        at = text.find("{", end)
    yield from reversed(found)


def first_of(data: dict[str, Any], names: tuple[str, ...]) -> Any:
    lowered = {str(key).strip().lower(): value for key, value in data.items()}
    return next((lowered[name] for name in names if lowered.get(name) not in (None, "", [], {})), None)


def as_text(value: Any) -> str:
    """A value of JSON as a reader would say it: the items of a list in lines."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(as_text(item) for item in value)
    if isinstance(value, dict):
        return "\n".join(f"{key}: {as_text(item)}" for key, item in value.items())
    return "" if value is None else str(value)


def torn(text: str, key: re.Match[str], numeric: bool | None, options: JsonOptions) -> Marked | None:
    """What stands behind one key ``answer`` of something that is not quite JSON."""
    quoted = QUOTED.match(text, key.end())
    bare = None if quoted else BARE.match(text, key.end())
    value = unescaped(quoted[2]) if quoted else bare[0] if bare else ""
    if value.strip() in ("", "null", "[", "{") or not (answer := in_value(value, numeric, options)):
        return None
    end = quoted.end() if quoted else bare.end() if bare else len(text)
    begins = REASON_KEY.search(text, 0, key.start())
    trace = text[begins.end() if begins else 0 : key.start()]
    trace = unescaped(trace.strip().strip("{,").strip().strip("\"'“”+").strip())
    return Marked(trace, answer, after_fence(text[end:]))


def unescaped(text: str) -> str:
    """The text that a torn piece of JSON stands for; escapes that JSON does not know stay as they are."""

    def plain(match: re.Match[str]) -> str:
        what = match[1]
        if what[0] == "u" and len(what) == 5:
            return chr(int(what[1:], 16))
        return ESCAPES.get(what, what if what in "\"/\\'" else match[0])

    return ESCAPE.sub(plain, text) if "\\" in text else text


def after_fence(text: str) -> str:
    """What stands behind an object, without what closes it."""
    return text.strip().lstrip("\"'”,}]").strip().strip("`").strip()
