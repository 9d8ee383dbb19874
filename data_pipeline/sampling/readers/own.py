"""Readers that a recipe brings: a regular expression, or a function of a module of the user's."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.sampling.readers.marks import AnswerReader, Marked, final, said


class RegexOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    pattern: str = Field(
        description="its last match counts: its group `answer`, or the first one, is the answer, its group `trace` the "
        "trace; else the trace is what stands before the match"
    )

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            compiled = re.compile(pattern, re.M)
        except re.error as error:
            raise ValueError(f"is no regular expression ({error})") from error
        if not compiled.groups:
            raise ValueError("has no group; put the answer in parentheses")
        return pattern


def regex_reader(options: RegexOptions) -> AnswerReader:
    pattern = re.compile(options.pattern, re.M)
    group: str | int = "answer" if "answer" in pattern.groupindex else 1

    def read(text: str, numeric: bool | None) -> Marked | None:
        last = final(pattern.finditer(text))
        if last is None or last[group] is None or not (answer := said(last[group], numeric)):
            return None
        named = last["trace"] if "trace" in pattern.groupindex else None
        return Marked((text[: last.start()] if named is None else named).strip(), answer, text[last.end() :].strip())

    return read


def own_reader(name: str, options: Mapping[str, Any], field: str) -> AnswerReader:
    """``my_module:function``: a function of a text, and of the options by their names, that gives (trace, answer), or
    None where it reads nothing. Raises InputError if there is no such function, or, when read, if it gives other."""
    module_name, _, attribute = name.partition(":")
    if own_modules.is_looking():
        return lambda text, numeric: None
    function = getattr(own_modules.load(module_name, f"{field}.use"), attribute, None)
    if not callable(function):
        raise InputError(f"{field}.use: module '{module_name}' has no function '{attribute}'")

    def read(text: str, numeric: bool | None) -> Marked | None:
        try:
            found = function(text, **options)
        except InputError:
            raise
        except Exception as error:  # it may be anybody's code
            raise InputError(
                f"{field}.use: '{name}' failed ({type(error).__name__}: {error}) on {text[:80]!r}"
            ) from error
        if found is None:
            return None
        if not isinstance(found, tuple) or len(found) != 2 or not all(isinstance(part, str) for part in found):
            raise InputError(f"{field}.use: '{name}' gave {found!r:.80}, expected (trace, answer) or None")
        return Marked(found[0], found[1])

    return read
