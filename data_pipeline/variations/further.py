"""Further sources of held-out questions: related tasks, and tasks that nobody was trained on."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.answers.verifier import find_own, own_module
from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.files.fields import FieldsConfig
from tracestill.data_pipeline.sampling.files.formats import parts_of
from tracestill.data_pipeline.sampling.files.gather import FileConfig, gather
from tracestill.data_pipeline.sampling.files.rejected import SHARE, Rejected, refuse_too_many
from tracestill.data_pipeline.sampling.questions import QuestionsConfig, counted, files_at, from_module
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.sampling.teachers import is_own

ALSO = "evaluate.also"
HELD_OUT = "held_out"  # the task that a run's own questions are


class AlsoConfig(BaseModel):
    """One entry of ``evaluate.also``: questions that are asked besides, of any source that a recipe can have."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Name = Field(description="as questions.source: a task, a dotted module, a file, a directory, or hf://…")
    questions: int = Field(200, ge=1, description="asked at most, drawn by the seed; of a task: posed")
    fields: FieldsConfig = Field(FieldsConfig(), description="as questions.fields")
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="of files: rows of this split only; null: test ones where rows or files name splits, else all"
    )
    columns: tuple[str, ...] | None = Field(None, description="as questions.columns")
    escapes: bool = Field(False, description="as questions.escapes")
    options: dict[str, Any] = Field({}, description="the task's own options")
    verify: Name | None = Field(None, description="the verifier, as verify.use; null: the recipe's")
    varied: bool = Field(True, description="evaluate.variations vary these questions too")
    max_rejected: float = Field(SHARE, ge=0, le=1, description="share of rows that may be unusable")

    @field_validator("verify")
    @classmethod
    def _verifier(cls, use: str | None) -> str | None:
        if use is not None and (own_module(use) is None or not own_modules.is_looking()):
            find_own(use)
        return use

    @model_validator(mode="after")
    def _can_be_read(self) -> AlsoConfig:
        try:
            self.as_questions()
        except ValueError as error:
            said = "; ".join(fault["msg"] for fault in error.errors()) if hasattr(error, "errors") else str(error)
            raise ValueError(said.replace("Value error, ", "").replace("questions.", "")) from error
        return self

    def as_questions(self) -> QuestionsConfig:
        """The same source as a recipe's ``questions`` has it."""
        given = self.model_dump(include={"source", "fields", "columns", "escapes", "options"}, exclude_defaults=True)
        return QuestionsConfig.model_validate({**given, "train": 1, "test": self.questions})


class Further(NamedTuple):
    """The questions of one source, and what became of everything else that it holds."""

    questions: list[Question]
    counts: dict[str, Any]  # as of questions.Posed
    rejected: list[Rejected]


def further(name: str, config: AlsoConfig, seed: int) -> Further:
    """The questions of ``evaluate.also``'s entry ``name``; equal for equal arguments. Raises InputError as the sample
    stage does for a source that cannot be read, or with too much in it that cannot be used."""
    field = f"{ALSO}.{name}"
    asked = config.as_questions()
    file = FileConfig(path=config.source, fields=config.fields, columns=config.columns, escapes=config.escapes)
    try:
        if not asked.is_file:
            posed = from_module(asked, {"train": 0, "test": config.questions}, seed)
            found = [replace(each, source=config.source) for each in posed.questions]
            return Further(found, posed.counts, posed.rejected)
        read = gather([file], Chain().answer, with_traces=False)
    except InputError as error:
        raise InputError(f"{field}: {str(error).removeprefix('questions.')}") from error
    refuse_too_many(read.rejected, read.total, config.max_rejected, f"{field}.max_rejected", "rows")
    splits = {each.split for each in read.questions}
    split = config.split or ("test" if "test" in splits else None)
    usable = [each for each in read.questions if split is None or each.split == split]
    if not usable:
        there = f"its rows are of {', '.join(sorted(filter(None, splits)))}" if any(splits) else "it names no splits"
        raise InputError(
            f"{field}: {config.source} holds no question{f' of the split {split}; {there}' if split else ''}"
        )
    random.Random(f"{field} {seed}").shuffle(usable)
    used = usable[: config.questions]
    unused = len(read.questions) - len(used)
    return Further(
        used, counted(read.total, len(used), read.duplicates, unused, read.rejected, read.joined), read.rejected
    )


def refuse_absent(also: dict[str, AlsoConfig]) -> None:
    """Raise InputError for an entry of ``evaluate.also`` whose files are not there."""
    for name, each in also.items():
        if each.as_questions().is_file:
            try:
                parts_of(each.source)
            except InputError as error:
                raise InputError(f"{ALSO}.{name}.source: {error}") from error


def own_modules_in(also: dict[str, AlsoConfig]) -> dict[str, str]:
    """Field -> module of the user's that it names."""
    found = {}
    for name, each in also.items():
        if not each.as_questions().is_file and is_own(each.source):
            found[f"{ALSO}.{name}.source"] = each.source
        if each.verify is not None and (module := own_module(each.verify)) is not None:
            found[f"{ALSO}.{name}.verify"] = module
    return found


def files_of(also: dict[str, AlsoConfig]) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the files outside of the run that decide on these questions and their verdicts."""
    found = {field: own_modules.files(module) for field, module in own_modules_in(also).items()}
    for name, each in also.items():
        if each.as_questions().is_file:
            found[f"{ALSO}.{name}.source"] = files_at(each.source)
        found |= named_files(each.options, f"{ALSO}.{name}.options")
    return found
