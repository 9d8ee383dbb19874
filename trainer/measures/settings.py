"""The parts of ``evaluate`` that measure more than accuracy, each switched on by a block of the recipe. No torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.files.fields import FieldsConfig
from tracestill.data_pipeline.yields.estimators import MOST, ks

Way = Literal["cut", "corrupt", "swap", "blank"]
WAYS: tuple[Way, ...] = ("cut", "corrupt", "swap", "blank")


class SamplesConfig(BaseModel):
    """The ``evaluate.samples`` block: several answers to each question, and what a vote among them is worth."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    count: int = Field(8, ge=1, le=MOST, description="answers to each question")
    temperature: float = Field(0.7, gt=0, description="at which they are drawn")
    ks: tuple[int, ...] | None = Field(
        None, description="numbers of samples that the curves show; null: 1, 2, 4, … and count"
    )
    bins: int = Field(10, ge=1, description="of the reliability table, each with equally many answers")

    @property
    def shown(self) -> list[int]:
        return ks(self.count) if self.ks is None else sorted(set(self.ks))

    @field_validator("ks")
    @classmethod
    def _some(cls, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if given is not None and (not given or min(given) < 1):
            raise ValueError("expected numbers of samples, each at least 1, or null")
        return given

    @model_validator(mode="after")
    def _within(self) -> SamplesConfig:
        if (most := max(self.shown)) > self.count:
            raise ValueError(f"ks: {most} samples of a question are more than its count of {self.count}")
        return self


class BudgetsConfig(BaseModel):
    """The ``evaluate.budgets`` block: accuracy against the tokens that a thought may have. A list stands for its
    ``tokens``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: tuple[int, ...] = Field(
        min_length=1, description="budgets of the thought, each a point of the curve; at most max_new_tokens"
    )
    answer_tokens: int = Field(32, ge=1, description="tokens of an answer that is asked for once the budget is used up")
    continuation: str | None = Field(
        None, min_length=1, description="put in place of an end that comes too early, such as Wait; null: nothing is"
    )
    continuations: int = Field(1, ge=1, description="times that a thought is made to go on, at most")
    questions: int | None = Field(None, ge=1, description="held-out questions of the evaluation used; null: all")

    @model_validator(mode="before")
    @classmethod
    def _listed(cls, given: Any) -> Any:
        return {"tokens": given} if isinstance(given, list | tuple) else given

    @field_validator("tokens")
    @classmethod
    def _rising(cls, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if min(tokens) < 1:
            raise ValueError("expected numbers of tokens, each at least 1")
        return tuple(sorted(set(tokens)))


class CauseConfig(BaseModel):
    """The ``evaluate.cause`` block: the student's own trace is changed, and it goes on: does its answer change?"""

    model_config = ConfigDict(extra="forbid", frozen=True)

    questions: int = Field(50, ge=1, description="held-out questions of the evaluation used, the first ones")
    steps: int | None = Field(6, ge=1, description="steps of a trace at which it is changed, evenly spread; null: all")
    ways: tuple[Way, ...] = Field(
        WAYS,
        description="cut: answer at once from what stands before the step; corrupt: another number in the step; swap: "
        "the step of another question's trace; blank: an ellipsis in its place; after each but cut the student goes on",
    )
    teacher: bool = Field(
        True, description="begin with the teacher's first steps too, where it has a right trace (sample.test_samples)"
    )


class QualityConfig(BaseModel):
    """The ``evaluate.quality`` block: are traces sound, how like the teacher's, how long; beside accuracy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bins: int = Field(4, ge=1, description="of length and of similarity, each with equally many questions")


class GeneralConfig(BaseModel):
    """The ``evaluate.general`` block: the loss on general text, before training and after."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Name = Field(description="a file or directory, as in questions.source: plain text, or prompt and response")
    fields: FieldsConfig = Field(FieldsConfig(), description="which field means what, as in questions.fields")
    texts: int | None = Field(200, ge=1, description="texts read, the first ones; null: all")
    characters: int = Field(2000, ge=1, description="of a text at most: what follows is left out, and counted")
