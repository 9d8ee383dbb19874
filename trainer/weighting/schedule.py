"""Numbers of a recipe that change while training: any weight may be one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base.options import check_options


class Schedule(BaseModel):
    """A number >= 0 as a function of the optimizer step s (from 0). With x = clip((s - start) / steps, 0, 1):

    constant   from
    linear     from + (to - from) * x
    cosine     to + (from - to) * (1 + cos(pi * x)) / 2
    piecewise  straight lines between the given (step, value) points, level before the first and after the last
    """

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    shape: Literal["constant", "linear", "cosine", "piecewise"] = Field("linear", description="how the number changes")
    from_: float | None = Field(None, ge=0, allow_inf_nan=False, alias="from", description="value up to step `start`")
    to: float | None = Field(None, ge=0, allow_inf_nan=False, description="value from step `start` + `steps` on")
    steps: int | None = Field(None, ge=1, description="steps the change takes")
    start: int = Field(0, ge=0, description="step at which the change begins")
    points: tuple[tuple[int, float], ...] | None = Field(None, description="piecewise only: [step, value], ascending")

    @model_validator(mode="after")
    def _fields_of_the_shape(self) -> Schedule:
        ramp = {"from": self.from_, "to": self.to, "steps": self.steps}
        wanted = {"constant": ["from"], "piecewise": []}.get(self.shape, list(ramp))
        missing = [name for name in wanted if ramp[name] is None]
        extra = [name for name, value in ramp.items() if value is not None and name not in wanted]
        if missing or extra:
            needs = ", ".join(wanted) or "points alone"
            raise ValueError(
                f"a {self.shape} schedule needs {needs}; {'missing' if missing else 'remove'}: "
                f"{', '.join(missing or extra)}"
            )
        if (self.points is not None) != (self.shape == "piecewise"):
            raise ValueError("points belong to shape: piecewise, which needs them")
        if self.points is not None:
            steps = [step for step, _ in self.points]
            if not steps or steps[0] < 0 or any(b <= a for a, b in pairwise(steps)):
                raise ValueError("points need ascending steps >= 0, such as [[0, 1.0], [100, 0.5]]")
            if not all(0 <= value < math.inf for _, value in self.points):
                raise ValueError("points need finite values >= 0")
        return self

    def value(self, step: int) -> float:
        """The number at optimizer step ``step``, from 0."""
        if self.points is not None:
            steps, values = zip(*self.points, strict=True)
            return float(np.interp(float(step), steps, values))
        assert self.from_ is not None
        if self.shape == "constant":
            return self.from_
        assert self.to is not None
        assert self.steps is not None
        share = min(1.0, max(0.0, (step - self.start) / self.steps))
        if self.shape == "cosine":
            return self.to + (self.from_ - self.to) * (1 + math.cos(math.pi * share)) / 2
        return self.from_ + (self.to - self.from_) * share

    def corners(self) -> list[int]:
        """Steps at which the number begins or ceases to change."""
        if self.points is not None:
            return [step for step, _ in self.points]
        return [0] if self.steps is None else [self.start, self.start + self.steps]


Weight = float | Schedule
"""A number of the recipe, or one that changes."""


def read_weight(value: Any, field: str) -> Any:
    """A mapping as a schedule, a number as a number. Raises ValueError naming the field, and the nearest known key."""
    if isinstance(value, Mapping):
        return check_options(Schedule, {str(k): v for k, v in value.items()}, field)
    if isinstance(value, Schedule):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{field} is {value!r}; expected a number >= 0 or a schedule") from None
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{field} is {number}; expected a finite number >= 0")
    return number


def read_number(value: Any, field: str) -> Any:
    """As ``read_weight``; a plain number may be negative, too."""
    if isinstance(value, Mapping | Schedule):
        return read_weight(value, field)
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{field} is {value!r}; expected a number or a schedule") from None
    if not math.isfinite(number):
        raise ValueError(f"{field} is {number}; expected a finite number")
    return number


def read_share(value: Any, field: str) -> Any:
    """As ``read_weight``, and at most 1."""
    share = read_weight(value, field)
    highest = max(at(share, step) for step in share.corners()) if isinstance(share, Schedule) else share
    if highest > 1:
        raise ValueError(f"{field} reaches {highest:g}; expected at most 1")
    return share


def at(weight: Weight, step: int) -> float:
    """The number at an optimizer step."""
    return weight.value(step) if isinstance(weight, Schedule) else weight
