"""What a recipe says of sampling, and the teachers that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.files.formats import is_files
from tracestill.data_pipeline.sampling.files.rejected import SHARE
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.readers.chain import DEFAULT, Chain, ReaderConfig
from tracestill.data_pipeline.sampling.readers.checks import ChecksConfig
from tracestill.data_pipeline.sampling.teachers import Teacher, is_own, make_teacher

RECORDED = "recorded"


class TeacherConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(min_length=1, description="names the teacher in records and reports")
    use: Name | None = Field(None, description="its task module; null: the one that poses the questions")
    options: dict[str, Any] = Field({}, description="the teacher's own options")


class SampleConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1, description="who answers")
    styles: tuple[str, ...] = Field(("",), min_length=1, description="system prompts")
    temperatures: tuple[float, ...] = Field((1.0,), min_length=1, description=">= 0; 0 is the most likely trace")
    samples: int = Field(1, ge=1, description="traces for each question, teacher, style and temperature")
    test_samples: int = Field(
        1,
        ge=0,
        description="traces for each held-out question (test, validation) and teacher, at the first style and "
        "temperature; never trained on, the loss by kind is measured on them",
    )
    attempts: int = Field(3, ge=1, description="times that a failing teacher is asked for one sample")
    readers: tuple[Name | ReaderConfig, ...] = Field(
        DEFAULT, min_length=1, description="how trace and answer are found in what teachers wrote; the first that does"
    )
    checks: ChecksConfig = Field(ChecksConfig(), description="what in a trace breaks students later, and what is done")
    max_rejected: float = Field(
        SHARE, ge=0, le=1, description="share of all samples that may be unusable; with more, sampling ends at once"
    )

    @field_validator("teachers", "styles", "temperatures")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [value.name if isinstance(value, TeacherConfig) else value for value in values]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} occurs twice; each must be different")
        return values

    @field_validator("temperatures")
    @classmethod
    def _not_negative(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value < float("inf") for value in values):
            raise ValueError("a temperature is a number >= 0")
        return values


@dataclass(frozen=True)
class Asked:
    """A teacher ready to answer, and what identifies it."""

    teacher: Teacher
    module: str
    options: dict[str, Any]  # defaults filled in
    changed: str = ""  # as Journal.changed says


def make_teachers(sample: SampleConfig, questions: QuestionsConfig) -> dict[str, Asked]:
    """The teachers by name. Raises InputError for an unknown module or option: good for checking a recipe, too.
    Who only looks gets none of the user's own."""
    Chain(sample.readers, sample.checks)
    found = {}
    for position, config in enumerate(sample.teachers):
        field = f"sample.teachers.{position}"
        module = config.use or questions.source
        if is_files(module):
            raise InputError(
                f"{field}.use: the questions come from a file, so name the task that answers them; for the traces in "
                "it: use: recorded"
            )
        if module == RECORDED and not questions.is_file:
            raise InputError(f"{field}.use: {RECORDED} replays traces in files, but the questions come from a module")
        if own_modules.is_looking() and is_own(module):
            continue
        teacher, options = make_teacher(module, config.options, f"{field}.use")
        found[config.name] = Asked(teacher, module, options)
    return found


def files_of(teacher: TeacherConfig, questions: QuestionsConfig) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the files that decide what a teacher says: its own module, and what its options name."""
    module = teacher.use or questions.source
    own = {"module": own_modules.files(module)} if not is_files(module) and is_own(module) else {}
    return own | named_files(teacher.options, "options")


def reader_files(sample: SampleConfig) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the modules of the user's that read what teachers wrote."""
    return {
        f"sample.readers.{at}": own_modules.files(use.partition(":")[0])
        for at, reader in enumerate(sample.readers)
        if ":" in (use := reader if isinstance(reader, str) else reader.use)
    }
