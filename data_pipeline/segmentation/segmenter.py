"""Which way of segmenting a recipe asks for (``segment.by``), and records given their spans by it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.schema import Record, Span, span_fault
from tracestill.data_pipeline.base.stage import CONTENTS
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.segmentation.clean import Cleaner, cleaned
from tracestill.data_pipeline.segmentation.parts import Part, spans_of
from tracestill.data_pipeline.segmentation.rules import lines, rules

Function = Callable[[str, str], Sequence[Part]]  # of question and trace
VERSION = 1  # of what the built-in ways make of a trace: with another one, documents are encoded again
GIVEN = "spans"
WAYS: dict[str, Function] = {"rules": rules, "lines": lines}


class SegmentConfig(BaseModel):
    """The ``segment`` block: how a trace is cut into spans. Those that a teacher or a file gives stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Name = Field(
        "rules",
        description="rules: whole sentences by English words; lines: whole lines by the same rules; spans: as the "
        "teacher or the file gives them, records without are rejected; or my_pkg.my_module:function of question and "
        "trace, which returns Spans",
    )
    clean: tuple[Cleaner, ...] = Field(
        (), description="taken out of traces before they are cut and encoded: calculator, GSM8K's <<48/2=24>>"
    )

    @field_validator("by")
    @classmethod
    def _found(cls, by: str) -> str:
        if ":" in by:
            if not own_modules.is_looking():
                own_function(by)
        elif by not in (*WAYS, GIVEN):
            known = nearest(by, [*WAYS, GIVEN])
            raise ValueError(
                f"unknown way to segment '{by}'{known}; or give an import path such as my_pkg.my_module:cut"
            )
        return by


def own_module(config: SegmentConfig) -> str | None:
    """The module of the user's that ``segment.by`` names; None for a built-in way."""
    return config.by.partition(":")[0] if ":" in config.by else None


def own_function(by: str) -> Callable[[str, str], Sequence[Span]]:
    """The user's function. Raises InputError naming what is missing."""
    module_name, _, name = by.partition(":")
    found = getattr(own_modules.load(module_name, "segment.by"), name, None)
    if not callable(found):
        raise InputError(f"segment.by: {module_name} has no function '{name}'")
    return found  # type: ignore[no-any-return]


def stage_config(config: SegmentConfig, memory: Path | None = None) -> dict[str, Any]:
    """What decides how traces come out, for ``stage.is_current``; digests of a module of the user's among it."""
    module = own_module(config)
    found = contents({"segment.by": own_modules.files(module)} if module else {}, memory)
    held = {"by": config.by, "clean": list(config.clean), "version": VERSION}
    return {"segment": held, **({CONTENTS: found} if found else {})}


class Segmenter:
    """Gives records their spans, as a recipe's ``segment`` says."""

    def __init__(self, config: SegmentConfig) -> None:
        self.config = config
        self.parts = self.function()

    def function(self) -> Function:
        by = self.config.by
        if by == GIVEN:
            return lambda question, trace: []
        if ":" not in by:
            return WAYS[by]
        own = own_function(by)

        def parts(question: str, trace: str) -> list[Part]:
            found = own(question, trace)
            if not isinstance(found, list | tuple) or not all(isinstance(span, Span) for span in found):
                raise InputError(f"segment.by: {by} must return Spans, got {ascii(found)[:200]}")
            kinds = {span.kind for span in found}
            if fault := span_fault(trace, found, kinds):
                raise InputError(f"segment.by: {by} of the trace {ascii(trace)[:80]}: {fault}")
            return [Part(span.kind, span.end, f"{by}") for span in found]

        return parts

    def given(self, record: Record) -> bool:
        """Whether the record brings spans of its own. (Older versions wrote those of ``rules`` into records.)"""
        return bool(record.spans) and record.spans != spans_of(rules(record.question, record.trace))

    def __call__(self, record: Record) -> Record:
        """The record with its trace cleaned, and with spans: its own, or those of ``segment.by``. There are none left
        where it asks for the record's own and there are none."""
        if not self.given(record):
            record = replace(record, spans=())
        record = cleaned(record, self.config.clean)
        if record.spans:
            return record
        return replace(record, spans=spans_of(self.parts(record.question, record.trace)))
