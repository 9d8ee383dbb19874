"""Options of the weightings that choose tokens by what a model says of them, checked with the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from tracestill.data_pipeline.channels.named import single
from tracestill.trainer.weighting.base import WeightingOptions
from tracestill.trainer.weighting.schedule import Schedule, at, read_number, read_share

Number = float | Schedule
How = Literal["hard", "rank", "proportional", "probability"]


class Limits(WeightingOptions):
    """How much of each pool counts: a share of it, or what lies beyond a threshold."""

    kinds: tuple[str, ...] | None = None
    share: Number | dict[str, Number] | None = Field(
        None, description="the part of each pool that counts, in [0, 1]; by name, or a schedule, too"
    )
    threshold: Number | dict[str, Number] | None = Field(
        None, description="or: the value beyond which a target counts; by name, or a schedule, too"
    )

    @model_validator(mode="before")
    @classmethod
    def _names(cls, data: Any) -> Any:
        """Names of a share or threshold by name are the kinds."""
        for field in ("share", "threshold") if isinstance(data, Mapping) else ():
            if is_by_name(data.get(field)):
                return {**data, "kinds": data.get("kinds") or tuple(data[field])}
        return data

    @field_validator("share", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        return by_name(value, "share", read_share)

    @field_validator("threshold", mode="before")
    @classmethod
    def _threshold(cls, value: Any) -> Any:
        return by_name(value, "threshold", read_number)

    @model_validator(mode="after")
    def _same_names(self) -> Limits:
        for name in self.limited:
            value, kinds = getattr(self, name), self.kinds or ()
            if isinstance(value, Mapping) and set(value) != set(kinds):
                raise ValueError(f"{name} names {', '.join(value)}, kinds {', '.join(kinds)}; leave out kinds")
        return self

    @property
    def limited(self) -> list[str]:
        """Which of the two are given."""
        return [name for name in ("share", "threshold") if getattr(self, name) is not None]

    def number(self, field: str, name: str, step: int) -> float:
        """``share`` or ``threshold`` of a pool at a step."""
        value = getattr(self, field)
        return at(value[name] if isinstance(value, Mapping) else value, step)


class ByChannelOptions(Limits):
    channel: str = Field(description="SCORER.CHANNEL of `score`: nll, entropy, rank, top1, or influence of a step")
    kinds: tuple[str, ...] = Field(
        ("trace",), min_length=1, description="kinds or groups that it acts on; each is a pool of its own"
    )
    how: How = Field("hard", description="hard: a token counts or not; else by its rank, its value, or exp(-|value|)")
    keep: Literal["above", "below"] = Field("above", description="the side that counts: large values, or small ones")
    otherwise: float = Field(0.0, ge=0, allow_inf_nan=False, description="of hard: factor of a target that is not kept")
    control: Literal["off", "store", "document"] = Field(
        "off",
        description="the same amount at random. store: of each kind the same share of all targets; document: as many "
        "of each kind in each document. true: store",
    )

    @field_validator("channel")
    @classmethod
    def _single(cls, channel: str) -> str:
        return single(channel)

    @field_validator("control", mode="before")
    @classmethod
    def _control(cls, value: Any) -> Any:
        return {True: "store", False: "off"}.get(value, value) if isinstance(value, bool) else value

    @model_validator(mode="after")
    def _together(self) -> ByChannelOptions:
        if self.how == "hard" and len(self.limited) != 1:
            raise ValueError("give exactly one of share and threshold")
        if self.how != "hard" and self.limited:
            raise ValueError(f"{self.limited[0]} is for how: hard; leave it out")
        if self.how != "hard" and self.control == "store":
            raise ValueError(f"control: store is for how: hard; the control of {self.how} is control: document")
        return self


def is_by_name(value: Any) -> bool:
    """Whether it is a mapping of names, and no schedule."""
    keys = {field.alias or name for name, field in Schedule.model_fields.items()}
    return isinstance(value, Mapping) and bool(value) and not set(value) <= keys


def by_name(value: Any, field: str, read: Any) -> Any:
    if is_by_name(value):
        return {name: read(one, f"{field}.{name}") for name, one in value.items()}
    return None if value is None else read(value, field)


class KnownOptions(ByChannelOptions):
    channel: str = Field("base.nll", description="nll of the student before training")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: Any) -> Any:
        return with_default(data, threshold=0.1)


class CriticalOptions(ByChannelOptions):
    channel: str = Field("base.influence", description="by how much the answer's nll rises without the step, nats")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: Any) -> Any:
        return with_default(data, threshold=0.0)


class TeacherConfidenceOptions(ByChannelOptions):
    channel: str = Field("teacher.top1", description="of the teacher: top1, nll, entropy or rank")
    how: How = Field("probability", description="as for by_channel")

    @model_validator(mode="before")
    @classmethod
    def _default(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and "keep" not in data:
            sure = str(data.get("channel", "teacher.top1")).endswith(".top1")
            data = {**data, "keep": "above" if sure else "below"}
        return data


def with_default(data: Any, threshold: float) -> Any:
    """Options with a threshold, if they are of ``hard`` and say neither threshold nor share."""
    if not isinstance(data, Mapping) or data.get("how", "hard") != "hard":
        return data
    given = data.get("share") is not None or data.get("threshold") is not None
    return data if given else {**data, "threshold": threshold}
