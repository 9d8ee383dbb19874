"""Weightings: from span kinds to loss weights, at training time, without touching the tokenised data.

    L = sum_i w_i * c_i * f_i * nll_i      over all targets of one optimizer step, on all ranks
    w_i = kinds(step)[kind_i] * record weight of i's document * tokens(document, step)[i]
    f_i = dynamic(nll_i, p_i, entropy_i)   held constant; it never enters c; 1 outside ``options.kinds``
    c                                      see ``tracestill.trainer.weighting.normaliser``

A weighting is a class below ``base.Weighting``. The built-in ones stand in ``by_kind``, ``by_token``, ``by_model``,
``excess`` and ``by_channel``; a recipe names any other by its import path. This file imports no torch, so that a recipe
is checked at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds, nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.channels.named import Scores
from tracestill.data_pipeline.guards.names import Name
from tracestill.trainer.weighting.base import MultiplierOptions, Weighting, table_at
from tracestill.trainer.weighting.normaliser import NORMALISERS
from tracestill.trainer.weighting.schedule import Schedule, at, read_weight

BUILT_IN = {
    "span": "tracestill.trainer.weighting.by_kind:SpanWeighting",
    "answer_only": "tracestill.trainer.weighting.by_kind:AnswerOnly",
    "trace_only": "tracestill.trainer.weighting.by_kind:TraceOnly",
    "prompt_loss": "tracestill.trainer.weighting.by_kind:PromptLoss",
    "steps_last_first": "tracestill.trainer.weighting.by_token:StepsLastFirst",
    "random_drop": "tracestill.trainer.weighting.by_token:RandomDrop",
    "dft": "tracestill.trainer.weighting.by_model:DynamicFineTuning",
    "focal": "tracestill.trainer.weighting.by_model:FocalLoss",
    "excess_loss": "tracestill.trainer.weighting.excess:ExcessLoss",
    "by_channel": "tracestill.trainer.weighting.by_channel:ByChannel",
    "known": "tracestill.trainer.weighting.by_channel:Known",
    "critical": "tracestill.trainer.weighting.by_channel:Critical",
    "teacher_confidence": "tracestill.trainer.weighting.by_channel:TeacherConfidence",
}

if TYPE_CHECKING:
    NormaliserName = str
else:
    NormaliserName = Literal[tuple(NORMALISERS)]


def normaliser_field() -> Any:
    """A field of a config that names a normaliser."""
    said = "; ".join(f"{normaliser.about} ({name})" for name, normaliser in NORMALISERS.items())
    return Field("weights", description=f"what the weighted sum is divided by: {said}")


STOP = (
    "give the symbol that ends documents a weight, such as weighting.weights.control: 1, or set "
    "weighting.allow_unstoppable: true"
)


class WeightingConfig(BaseModel):
    """The ``weighting`` block of a recipe. A text in its place, such as ``weighting: dft``, stands for ``use``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field("span", description="a built-in weighting, or my_pkg.my_module:MyWeighting")
    options: dict[str, Any] = Field({}, validate_default=True, description="the weighting's own options")
    weights: dict[str, float | Schedule] = Field(
        default={"prompt": 0.0},
        description="weight of each kind or group (trace), or its schedule; a kind's own name wins; what is not named "
        "weighs 1, pad 0",
    )
    normaliser: NormaliserName = normaliser_field()
    allow_unstoppable: bool = Field(
        False, description="train even where the symbol that ends documents never weighs anything"
    )

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: Any) -> Any:
        return {"use": data} if isinstance(data, str) else data

    @field_validator("use")
    @classmethod
    def _found(cls, use: str) -> str:
        if not is_out_of_sight(use):
            find(use)
        return use

    @field_validator("options")
    @classmethod
    def _own_options(cls, options: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "use" not in info.data or is_out_of_sight(info.data["use"]):
            return options
        return read_options(find(info.data["use"]), options).model_dump(mode="json")

    @field_validator("weights", mode="before")
    @classmethod
    def _numbers_or_schedules(cls, weights: Any) -> Any:
        if not isinstance(weights, Mapping):
            return weights
        return {name: read_weight(value, f"weight of '{name}'") for name, value in weights.items()}


def own_module(use: str) -> str | None:
    """The module of the user's that ``weighting.use`` names; None for a built-in one, or what is no import path."""
    return use.partition(":")[0] if ":" in use and use not in BUILT_IN else None


def is_out_of_sight(use: str) -> bool:
    """Whether a weighting is the user's own while a run is only looked at, which imports nothing."""
    return own_module(use) is not None and own_modules.is_looking()


def find(use: str) -> type[Weighting]:
    """The class that ``weighting.use`` means. Raises InputError naming the nearest known name, or what is missing."""
    if ":" not in use and use not in BUILT_IN:
        path = "or give an import path such as my_pkg.my_module:MyWeighting"
        for module_name, name in ((use, ""), use.rpartition(".")[::2]):
            if module_name and own_modules.find(module_name) is not None:
                path = f"'{module_name}' is a module: name its class, as in {module_name}:{name or 'MyWeighting'}"
                break
        raise InputError(f"unknown weighting '{use}'{nearest(use, list(BUILT_IN))}; {path}")
    module_name, _, name = BUILT_IN.get(use, use).partition(":")
    module = importlib.import_module(module_name) if use in BUILT_IN else own_modules.load(module_name)
    if not hasattr(module, name):
        offered = [key for key, value in vars(module).items() if is_weighting(value)]
        raise InputError(f"{module_name} has no '{name}'{nearest(name, offered) if offered else ''}")
    found = getattr(module, name)
    if not is_weighting(found):
        raise InputError(
            f"{use} is no weighting: expected a class below tracestill.trainer.weighting.SpanWeighting, or below "
            "Weighting there, with kinds(step)"
        )
    return found


def is_weighting(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, Weighting) and found.kinds is not Weighting.kinds


def read_options(weighting: Any, options: Mapping[str, Any]) -> BaseModel:
    """A weighting's options. Raises InputError: one line that names each wrong key and the nearest known one."""
    return check_options(options_of(weighting), options, "options")


@cache
def options_of(weighting: type[Weighting]) -> type[BaseModel]:
    """What ``weighting.options`` may hold: the class's own ``Options``, and those of all multipliers if it is one."""
    own = weighting.Options
    if weighting.dynamic is None or "kinds" in own.model_fields:  # which then mean something else
        return own
    return create_model(own.__name__, __base__=(MultiplierOptions, own))


def multiplied_kinds(config: WeightingConfig, kinds: Kinds) -> np.ndarray | None:
    """(K,) bool: the kinds whose loss a recipe's ``dynamic`` multiplies; None: all, or there is none.

    Raises ValueError naming the nearest known kind or group.
    """
    options = read_options(find(config.use), config.options)
    named = options.kinds if isinstance(options, MultiplierOptions) else None
    try:
        return None if named is None else kinds.mask(named)
    except ValueError as error:
        raise ValueError(f"options.kinds: {error}") from None


def channels_of(config: WeightingConfig) -> tuple[str, ...]:
    """SCORER.CHANNEL of all that a recipe's weighting reads; none of one of the user's own that is out of sight."""
    if is_out_of_sight(config.use):
        return ()
    found = find(config.use)
    return found.reads(read_options(found, config.options))


def make_weighting(config: WeightingConfig, kinds: Kinds, seed: int = 0, scores: Scores | None = None) -> Weighting:
    """The weighting of a recipe. ``scores``: what it may read; without them it only says what it reads. Raises
    ValueError for an unknown kind, or a table that is none."""
    made: Any = find(config.use)
    weighting: Weighting = made(config, kinds, seed)
    weighting.scores = scores or {}
    multiplied_kinds(config, kinds)
    table_at(weighting, 0, len(kinds))
    return weighting


def weighed_kinds(config: WeightingConfig, kinds: Kinds) -> np.ndarray:
    """(K,) bool: the kinds to which a weighting by kind alone gives a weight at some step."""
    weighting = make_weighting(config, kinds)
    steps = {0, *(step for w in config.weights.values() if isinstance(w, Schedule) for step in w.corners())}
    return np.any([table_at(weighting, step, len(kinds)) > 0 for step in steps], axis=0)


def check_control(config: WeightingConfig) -> None:
    """Raise InputError if a built-in weighting gives delimiters no weight at any step, which shows before there is any
    data; ``stops.check_stops`` asks again when there is."""
    weight = config.weights.get("control", 1.0)
    values = [at(weight, step) for step in weight.corners()] if isinstance(weight, Schedule) else [weight]
    if config.use in BUILT_IN and not any(values) and not config.allow_unstoppable:
        raise InputError(f"weighting.weights.control: 0 leaves a student that could never stop; {STOP}")
