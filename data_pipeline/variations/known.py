"""The variations that a recipe names: built in, by name or family, and the user's own, by import path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.variations import entities, frames, harder, story
from tracestill.data_pipeline.variations.variation import PLAIN, Variation

FIELD = "evaluate.variations"
BUILT_IN = {each.label: each for room in (frames, story, entities, harder) for each in room.BUILT_IN}
FAMILIES = tuple(dict.fromkeys(each.family or each.name for each in BUILT_IN.values()))


class ReworderConfig(BaseModel):
    """A teacher that says questions in other words."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Name = Field(description="the name of one of sample.teachers; it may cost money")
    count: int = Field(3, ge=1, le=50, description="rewordings of each question")
    budget: float | None = Field(
        None,
        gt=0,
        description="money that this may cost, in the unit of the teacher's price, over all evaluations of the run; "
        "null: no bound",
    )


class VariationsConfig(BaseModel):
    """The ``evaluate.variations`` block. A list in its place, or ``all``, stands for ``use``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Literal["all"] | tuple[Name | ReworderConfig, ...] = Field(
        "all",
        description=f"families ({', '.join(FAMILIES)}), one of a family (wording.polite), your own "
        "(my_pkg.my_module:MINE), or a teacher of the recipe (by: NAME); all: all that are built in",
    )
    questions: int | None = Field(
        None, ge=1, description="of each task, the first questions that are varied; null: all that are asked"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"use": data} if isinstance(data, str | list | tuple) else data

    @model_validator(mode="after")
    def _found(self) -> VariationsConfig:
        chosen(self)
        return self

    @property
    def reworders(self) -> tuple[ReworderConfig, ...]:
        return () if isinstance(self.use, str) else tuple(each for each in self.use if isinstance(each, ReworderConfig))


def own_modules_in(config: VariationsConfig | None) -> dict[str, str]:
    """Field -> module of the user's that it names."""
    if config is None or isinstance(config.use, str):
        return {}
    named = {f"{FIELD}.use.{at}": each for at, each in enumerate(config.use) if isinstance(each, str)}
    return {field: use.partition(":")[0] for field, use in named.items() if ":" in use}


def own_files(config: VariationsConfig | None) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the files of the user's that vary questions."""
    return {field: own_modules.files(module) for field, module in own_modules_in(config).items()}


def chosen(config: VariationsConfig) -> list[Variation]:
    """The programs among the variations of a recipe, each once, in its order. Raises InputError for an unknown one;
    who only looks gets none of the user's own."""
    if isinstance(config.use, str):
        return list(BUILT_IN.values())
    found: dict[str, Variation] = {}
    for at, use in enumerate(config.use):
        for each in () if isinstance(use, ReworderConfig) else named(use, f"use.{at}"):
            if each.label == PLAIN or found.setdefault(each.label, each) is not each:
                raise InputError(f"two variations have the name {each.label}")
    return list(found.values())


def named(use: str, field: str) -> Sequence[Variation]:
    """What a name in a recipe means: one variation, or all of a family."""
    if use in BUILT_IN:
        return [BUILT_IN[use]]
    if use in FAMILIES:
        return [each for each in BUILT_IN.values() if each.family == use]
    module, _, name = use.partition(":")
    if not name:
        expected = "or give an import path such as my_pkg.my_module:MINE"
        raise InputError(f"{field}: unknown variation '{use}'{nearest(use, [*FAMILIES, *BUILT_IN])}; {expected}")
    if own_modules.is_looking():
        return []
    found = getattr(own_modules.load(module, field), name, None)
    if not isinstance(found, Variation):
        raise InputError(
            f"{field}: {module} has no variation '{name}'; expected an object of "
            "tracestill.data_pipeline.variations.Variation"
        )
    return [found]
