"""What a recipe says of sampling, and the teachers that it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.asking.revise import ReviseConfig
from tracestill.data_pipeline.sampling.asking.styles import BUILT_IN, StyleConfig, prompt_of
from tracestill.data_pipeline.sampling.asking.until import Until
from tracestill.data_pipeline.sampling.files.formats import is_files
from tracestill.data_pipeline.sampling.files.rejected import SHARE
from tracestill.data_pipeline.sampling.questions import QuestionsConfig
from tracestill.data_pipeline.sampling.readers.chain import DEFAULT, Chain, ReaderConfig
from tracestill.data_pipeline.sampling.readers.checks import ChecksConfig
from tracestill.data_pipeline.sampling.teachers import Teacher, is_own, make_teacher

RECORDED = "recorded"
FREE = 0.0


class TeacherConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(min_length=1, description="names the teacher in records and reports")
    use: Name | None = Field(None, description="its task module; null: the one that poses the questions")
    options: dict[str, Any] = Field({}, description="the teacher's own options")
    only_revises: bool = Field(False, description="it is asked for no trace of its own: see sample.revise")


class SampleConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1, description="who answers")
    styles: tuple[str | StyleConfig, ...] = Field(
        ("",), min_length=1, description=f"system prompts: your own, or by name: {', '.join(BUILT_IN)}"
    )
    temperatures: tuple[float, ...] = Field((1.0,), min_length=1, description=">= 0; 0 is the most likely trace")
    samples: int = Field(1, ge=1, description="traces for each question, teacher, style and temperature")
    test_samples: int = Field(
        1,
        ge=0,
        description="traces for each held-out question (test, validation) and teacher, at the first style and "
        "temperature; never trained on, the loss by kind is measured on them",
    )
    until: Until | None = Field(
        None, description="instead of samples: training questions are asked until they have enough right traces"
    )
    revise: ReviseConfig | None = Field(None, description="traces of training questions are criticised and rewritten")
    attempts: int = Field(3, ge=1, description="times that a failing teacher is asked for one sample")
    max_failed: float = Field(
        0.01,
        ge=0,
        le=1,
        description="share of all samples that may fail for good, each kept as a row with its reason; with more, "
        "sampling ends, and none of them has failed for good",
    )
    budget: float | None = Field(
        None,
        gt=0,
        description="money that asking may cost, in the unit of the teachers' prices, over all runs of this journal; "
        "what it does not pay for is not asked; null: no bound",
    )
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
        names = [
            value.name
            if isinstance(value, TeacherConfig)
            else prompt_of(value)
            if isinstance(value, str | StyleConfig)
            else value
            for value in values
        ]
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

    @model_validator(mode="after")
    def _whole(self) -> SampleConfig:
        if self.until is not None and self.samples != 1:
            raise ValueError("samples says how often, and until says so too: give one of them")
        if all(teacher.only_revises for teacher in self.teachers):
            raise ValueError("every teacher has only_revises: nobody is asked for a trace")
        names = {teacher.name for teacher in self.teachers}
        if self.revise is not None and (unknown := {self.revise.teacher, *self.revise.of} - names):
            raise ValueError(f"revise names {sorted(unknown)[0]!r}, which is no teacher of this recipe")
        return self

    @property
    def prompts(self) -> tuple[str, ...]:
        """The system prompts of the styles."""
        return tuple(prompt_of(style) for style in self.styles)

    @property
    def tags(self) -> dict[str, str]:
        """System prompt -> what the student sees of it."""
        return {style.system: style.tag for style in self.styles if isinstance(style, StyleConfig)}


@dataclass(frozen=True)
class Asked:
    """A teacher ready to answer, and what identifies it."""

    teacher: Teacher
    module: str
    options: dict[str, Any]  # defaults filled in
    changed: str = ""  # as Journal.changed says
    only_revises: bool = False


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
        if module == RECORDED and not questions.all_files():
            raise InputError(
                f"{field}.use: {RECORDED} replays traces in files, but the questions come from a module; name files "
                "by questions.files"
            )
        if own_modules.is_looking() and is_own(module):
            continue
        teacher, options = make_teacher(module, config.options, f"{field}.use")
        if sample.budget is not None and hasattr(teacher, "answer") and getattr(teacher, "price", FREE) is None:
            raise InputError(f"{field}.options.price: sample.budget is set, so what this teacher costs has to be known")
        found[config.name] = Asked(teacher, module, options, only_revises=config.only_revises)
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
