"""The recipe's `train.on_policy`: a student that learns from texts of its own. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.teachers.api.options import ServerConfig

NOBODY = "none"  # as `teacher: none`


class AdvantageConfig(BaseModel):
    """What a text counts where no teacher says more of it than whether its answer is right."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    right: float = Field(1.0, ge=0, description="of texts whose answer is right")
    wrong: float = Field(-1.0, le=0, description="of all others, those that were cut off among them")

    @model_validator(mode="after")
    def _some(self) -> AdvantageConfig:
        if not self.right and not self.wrong:
            raise ValueError("right and wrong are both 0: nothing would be learnt")
        return self


class TextTeacher(BaseModel):
    """Who scores the student's texts; a bare directory, such as ``teacher: models/teacher``, is its ``model``."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        allow_inf_nan=False,
        json_schema_extra={"type": ["object", "string", "null"]},
    )

    model: Name = Field(
        description="directory of the model, with the student's tokenizer, or its name at the server; none: nobody "
        "scores texts, and they count by their advantage alone"
    )
    zero: Literal[0, 3] = Field(
        0,
        description="3: the model's parameters are shared out among the ranks (ZeRO-3), for one that a rank has no "
        "memory for; 0: every rank has all",
    )
    server: ServerConfig | None = Field(
        None, description="asks a server that has the model, under that name, in place of reading with it here"
    )

    @model_validator(mode="before")
    @classmethod
    def _bare(cls, data: Any) -> Any:
        data = NOBODY if data is None else data
        return {"model": data} if isinstance(data, str) else data

    @model_validator(mode="after")
    def _together(self) -> TextTeacher:
        if self.zero and (self.server is not None or self.model == NOBODY):
            raise ValueError("zero: is for a model that is read here; leave it out with a server, and with model: none")
        return self

    @property
    def directory(self) -> Path | None:
        """Of a model that is read here."""
        return None if self.server is not None or self.model == NOBODY else Path(self.model)

    def identity(self) -> Any:
        """What of it decides what it says: where its parameters lie, or at which address they are served, does not."""
        return self.model if self.server is None else {"model": self.model, "server": {"form": self.server.form}}


class LengthStop(BaseModel):
    """When the student's texts have become too long to go on."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    length: float | None = Field(
        2.0,
        gt=1,
        description="training ends at a refresh whose texts are on average more than so many times as long as those of "
        "the first; null: never",
    )


class OnPolicyConfig(BaseModel):
    """Every ``refresh`` optimizer steps the student, as it is then, writes texts; the steps after learn from them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    teacher: TextTeacher = Field(description="who scores the student's texts; a bare directory is its model")
    divergence: Literal["reverse", "forward", "jsd"] = Field(
        "reverse", description="reverse: KL(student || teacher); forward: KL(teacher || student); jsd: between the two"
    )
    beta: float = Field(0.5, gt=0, lt=1, description="jsd only: the teacher's share of the mean of both")
    k: int = Field(32, ge=1, description="tokens of the teacher's distribution that are kept; the rest is one more")
    advantage: AdvantageConfig = Field(AdvantageConfig(), description="with teacher: none, what a text counts")
    questions: int = Field(64, ge=1, description="training questions a refresh; all come once before one comes again")
    samples: int = Field(4, ge=1, description="texts of each of them")
    temperature: float = Field(1.0, gt=0, description="at which they are drawn")
    max_new_tokens: int | None = Field(None, ge=1, description="tokens of a text; null: evaluate.max_new_tokens")
    horizon: int | None = Field(None, ge=1, description="only the first so many tokens of a text are learnt; null: all")
    refresh: int = Field(4, ge=1, description="optimizer steps that learn from the same texts")
    max_lag: int = Field(
        0,
        ge=0,
        description="tokens of texts that are more optimizer steps old than this weigh as much as the student finds "
        "them more, or less, likely now than when it drew them",
    )
    max_ratio: float = Field(2.0, ge=1, description="largest of these ratios")
    stop: LengthStop = Field(LengthStop(), description="when training ends before its last step")

    @model_validator(mode="after")
    def _together(self) -> OnPolicyConfig:
        if self.beta != 0.5 and self.divergence != "jsd":
            raise ValueError(f"beta is for divergence: jsd, not {self.divergence}; leave it out")
        if self.has_teacher and self.advantage != AdvantageConfig():
            raise ValueError(
                "advantage is for teacher: none; a teacher says what it thinks of each token; leave it out"
            )
        if not self.has_teacher and self.divergence != "reverse":
            raise ValueError(f"divergence: {self.divergence} needs a teacher")
        return self

    @property
    def has_teacher(self) -> bool:
        return self.teacher.server is not None or self.teacher.model != NOBODY
