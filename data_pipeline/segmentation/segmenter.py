"""Which way of segmenting a recipe asks for (``segment.by``), and records given their spans by it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.schema import Record, Span, span_fault, with_spans
from tracestill.data_pipeline.base.stage import CONTENTS
from tracestill.data_pipeline.guards.names import GivenPath, Name
from tracestill.data_pipeline.segmentation.classifier import SHIPPED, Classifier
from tracestill.data_pipeline.segmentation.clean import Cleaner, cleaned
from tracestill.data_pipeline.segmentation.flow import flow, spans_by_flow
from tracestill.data_pipeline.segmentation.parts import Part, compact
from tracestill.data_pipeline.segmentation.rules import lines, rules

Function = Callable[[str, str], Sequence[Part]]  # of question and trace
VERSION = 1  # of what the built-in ways make of a trace: with another one, documents are encoded again
GIVEN, MODEL = "spans", "model"
WAYS: dict[str, Function] = {"flow": flow, "rules": rules, "lines": lines}


class SegmentConfig(BaseModel):
    """The ``segment`` block: how a trace is cut into spans. Those that a teacher or a file gives stay as they are."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Name = Field(
        "flow",
        description="flow: below the sentence, by values that are new or known, in many languages; rules: whole "
        "sentences by English words; lines: whole lines by the same rules; model: below the sentence, by a small "
        "classifier; spans: as the teacher or the file gives them, records without are rejected; or "
        "my_pkg.my_module:function of question and trace, which returns Spans",
    )
    model: GivenPath | None = Field(
        None, description="with by: model, what `tracestill train-segmenter` wrote; null: the one that comes with it"
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
        elif by not in (known := [*WAYS, MODEL, GIVEN]):
            path = "or give an import path such as my_pkg.my_module:cut"
            raise ValueError(f"unknown way to segment '{by}'{nearest(by, known)}; {path}")
        return by

    @model_validator(mode="after")
    def _together(self) -> SegmentConfig:
        if self.model is not None and self.by != MODEL:
            raise ValueError(f"segment.model belongs to segment.by: model, not {self.by}")
        return self


def own_module(config: SegmentConfig) -> str | None:
    """The module of the user's that ``segment.by`` names; None for a built-in way."""
    return config.by.partition(":")[0] if ":" in config.by else None


def own_function(by: str) -> Callable[[str, str], Sequence[Span]]:
    """The user's function. Raises InputError naming what is missing."""
    module_name, _, name = by.partition(":")
    found = getattr(own_modules.load(module_name), name, None)
    if not callable(found):
        raise InputError(f"{module_name} has no function '{name}'")
    return found


def stage_config(config: SegmentConfig, memory: Path | None = None) -> dict[str, Any]:
    """What decides how traces come out, for ``stage.is_current``; digests of a module of the user's among it."""
    module = own_module(config)
    files = {"segment.by": own_modules.files(module)} if module else {}
    if config.model is not None:
        files["segment.model"] = {"": config.model}
    found = contents(files, memory)
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
        if by == MODEL:
            return Classifier.load(self.config.model or SHIPPED)
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

    def __call__(self, record: Record) -> Record:
        """The record with its trace cleaned, and with spans: its own, or those of ``segment.by``. There are none left
        where it asks for the record's own and there are none."""
        record = cleaned(record, self.config.clean)
        if record.spans:
            return record
        return with_spans(record, compact(self.parts(record.question, record.trace)))

    def all(self, records: Iterable[Record]) -> list[Record]:
        """Each of many records, as one by one."""
        if self.parts is not flow:
            return [self(record) for record in records]
        clean = [cleaned(record, self.config.clean) for record in records]
        spans = iter(spans_by_flow([(record.question, record.trace) for record in clean if not record.spans]))
        return [record if record.spans else with_spans(record, next(spans)) for record in clean]
