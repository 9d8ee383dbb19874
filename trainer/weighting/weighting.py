"""Weightings: from span kinds to loss weights, at training time, without touching the tokenised data.

    L = sum_i w_i * c_i * f_i * nll_i      over all targets of one optimizer step, on all ranks
    w_i = kinds(step)[kind_i] * record weight of i's document * tokens(document, step)[i]
    f_i = dynamic(nll_i, p_i, entropy_i)   held constant; it never enters c; 1 outside ``options.kinds``
    c                                      see ``tracestill.trainer.weighting.normaliser``

A weighting has ``kinds`` and, only if it needs more, ``tokens`` or ``dynamic``. The built-in ones stand in
``weighting.by_kind``, ``weighting.by_token`` and ``weighting.by_model``; a recipe names any other by its import
path. This file imports no torch, so that a recipe is checked at once.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, create_model, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds, nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.guards.names import Name
from tracestill.trainer.weighting.schedule import Schedule, Weight, at, read_weight

BUILT_IN = {
    "span": "tracestill.trainer.weighting.weighting:SpanWeighting",
    "answer_only": "tracestill.trainer.weighting.by_kind:AnswerOnly",
    "trace_only": "tracestill.trainer.weighting.by_kind:TraceOnly",
    "prompt_loss": "tracestill.trainer.weighting.by_kind:PromptLoss",
    "steps_last_first": "tracestill.trainer.weighting.by_token:StepsLastFirst",
    "random_drop": "tracestill.trainer.weighting.by_token:RandomDrop",
    "dft": "tracestill.trainer.weighting.by_model:DynamicFineTuning",
    "focal": "tracestill.trainer.weighting.by_model:FocalLoss",
    "excess_loss": "tracestill.trainer.weighting.by_model:ExcessLoss",
}


STOP = (
    "give the symbol that ends documents a weight, such as weighting.weights.control: 1, or set "
    "weighting.allow_unstoppable: true"
)


class WeightingOptions(BaseModel):
    """Base of a weighting's options: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MultiplierOptions(WeightingOptions):
    """Base of the options of a weighting that has ``dynamic``; one whose options are no such class is given them."""

    kinds: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="kinds or groups that are multiplied, such as [trace]; the others keep their plain loss; null: all",
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
    normaliser: Literal["weights", "tokens", "spans", "examples"] = Field(
        "weights",
        description="what the weighted sum is divided by: the sum of weights, the number of weighted tokens, or so "
        "that kinds (spans) or documents (examples) count as their weights say, however long they are",
    )
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


@dataclass(frozen=True)
class Document:
    """What ``tokens`` may look at: one document of n tokens."""

    index: int  # in the token store
    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    steps: np.ndarray  # (n,) uint16, step of the trace that a token lies in, from 0; 0 outside the trace


class Weighting(Protocol):
    """What a weighting has to offer; it is built as ``MyWeighting(config, kinds, seed)``.

    It may also offer, and is looked up by name for:

    Options                       a ``WeightingOptions``: what ``weighting.options`` may hold
    tokens(document, step)        (n,) float32, finite and >= 0: factor of each token's weight. It is computed by the
                                  loader for this rank's documents; the sums in c are then all-reduced
    dynamic(nll, p, entropy)      (C,) factors of C rows, tensors on the device, each row by itself. It never enters c.
                                  With it, ``options`` may name the ``kinds`` that it multiplies: rows of others are
                                  NaN to it and to ``observe``, and whatever it returns for them counts as 1
    reference                     path of a model whose nll becomes the fourth argument of ``dynamic``
    observe(nll, p, entropy, ..)  sees the arguments of ``dynamic`` in training, returns nothing
    end_step()                    called on every rank after each update; may all-reduce
    state(), load_state(state)    what a checkpoint keeps, as JSON
    named()                       kinds and groups that the recipe means to tell apart; missing ones are reported

    One without ``end_step`` and ``state`` answers by its arguments alone: it is asked for a step before the last one
    has ended (see ``batches.prefetch``).
    """

    def kinds(self, step: int) -> np.ndarray:
        """(K,) float32, finite and >= 0: the weight of each kind at an optimizer step, from 0. Pad counts as 0."""
        ...


TokenFunction = Callable[[Document, int], np.ndarray]


class SpanWeighting:
    """Weights by kind or group, as the recipe's ``weights`` say; the base of the built-in weightings.

        w_i = weights[kind_i](step)

    Raises ValueError naming the nearest known kind if ``weights`` names an unknown one.
    """

    Options: ClassVar[type[BaseModel]] = WeightingOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        self.config, self.span_kinds, self.seed = config, kinds, seed
        self.options: Any = read_options(type(self), config.options)
        self.weights: dict[str, Weight] = dict(config.weights)
        self.kinds(0)

    def kinds(self, step: int) -> np.ndarray:
        return self.span_kinds.table({name: at(weight, step) for name, weight in self.weights.items()}, default=1.0)

    def named(self) -> list[str]:
        kinds = self.options.kinds if isinstance(self.options, MultiplierOptions) else None
        return [*(kinds or ()), *self.weights]


def own_module(use: str) -> str | None:
    """The module of the user's that ``weighting.use`` names; None for a built-in one, or what is no import path."""
    return use.partition(":")[0] if ":" in use and use not in BUILT_IN else None


def is_out_of_sight(use: str) -> bool:
    """Whether a weighting is the user's own while a run is only looked at, which imports nothing."""
    return own_module(use) is not None and own_modules.is_looking()


def find(use: str) -> Any:
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
        offered = [key for key, value in vars(module).items() if hasattr(value, "kinds")]
        raise InputError(f"{module_name} has no '{name}'{nearest(name, offered) if offered else ''}")
    found = getattr(module, name)
    if not callable(getattr(found, "kinds", None)):
        raise InputError(f"{use} is no weighting: it offers no kinds(step)")
    return found


def read_options(weighting: Any, options: Mapping[str, Any]) -> BaseModel:
    """A weighting's options. Raises InputError: one line that names each wrong key and the nearest known one."""
    return check_options(options_of(weighting), options, "options")


@cache
def options_of(weighting: Any) -> type[BaseModel]:
    """What ``weighting.options`` may hold: the class's own ``Options``, and those of all multipliers if it is one."""
    own: type[BaseModel] = getattr(weighting, "Options", WeightingOptions)
    if not hasattr(weighting, "dynamic") or "kinds" in own.model_fields:  # which then mean something else
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


def make_weighting(config: WeightingConfig, kinds: Kinds, seed: int = 0) -> Weighting:
    """The weighting of a recipe. Raises ValueError for an unknown kind, or a table that is none."""
    weighting: Weighting = find(config.use)(config, kinds, seed)
    multiplied_kinds(config, kinds)
    table_at(weighting, 0, len(kinds))
    return weighting


def table_at(weighting: Weighting, step: int, num_kinds: int) -> np.ndarray:
    """(K,) float32 copy of a weighting's table, pad 0. Raises InputError if it is not finite, negative or misshapen."""
    table = np.array(weighting.kinds(step), dtype=np.float32)
    name = type(weighting).__name__
    if table.shape != (num_kinds,):
        raise InputError(f"{name}.kinds({step}) has the shape {table.shape}; expected ({num_kinds},), one a kind")
    if not ((table >= 0) & (table < np.inf)).all():
        raise InputError(f"{name}.kinds({step}) holds {table.min()} to {table.max()}; expected finite numbers >= 0")
    table[0] = 0.0
    return table


def token_function(weighting: Weighting) -> TokenFunction | None:
    """The weighting's ``tokens``, checked at every call; None if it has none.

    The checked function raises InputError naming the document if weights are misshapen, negative or not finite.
    """
    tokens = getattr(weighting, "tokens", None)
    if tokens is None:
        return None

    def checked(document: Document, step: int) -> np.ndarray:
        weights = np.asarray(tokens(document, step), dtype=np.float32)
        what = f"{type(weighting).__name__}.tokens(document {document.index}, step {step})"
        if weights.shape != document.tokens.shape:
            raise InputError(f"{what} has the shape {weights.shape}; expected {document.tokens.shape}, one a token")
        if not ((weights >= 0) & (weights < np.inf)).all():
            raise InputError(f"{what} holds {weights.min()} to {weights.max()}; expected finite numbers >= 0")
        return weights

    return checked


def check_control(config: WeightingConfig) -> None:
    """Raise InputError if a built-in weighting gives delimiters no weight at any step, which shows before there is any
    data; ``stops.check_stops`` asks again when there is."""
    weight = config.weights.get("control", 1.0)
    values = [at(weight, step) for step in weight.corners()] if isinstance(weight, Schedule) else [weight]
    if config.use in BUILT_IN and not any(values) and not config.allow_unstoppable:
        raise InputError(f"weighting.weights.control: 0 leaves a student that could never stop; {STOP}")


def end_step(weighting: Weighting) -> None:
    """Tell a weighting that keeps count that an optimizer step is over; called on every rank."""
    getattr(weighting, "end_step", lambda: None)()


def state_of(weighting: Weighting) -> dict[str, Any]:
    """What a checkpoint has to keep of a weighting, as JSON; the same on every rank."""
    return getattr(weighting, "state", dict)()


def restore(weighting: Weighting, state: Mapping[str, Any]) -> None:
    """Give a weighting back what ``state_of`` said."""
    if state:
        weighting.load_state(state)  # type: ignore[attr-defined]
