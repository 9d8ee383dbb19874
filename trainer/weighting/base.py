"""What a weighting is, and how it is asked. Imports no torch, so that a recipe is checked at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels.named import Scores


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


@dataclass(frozen=True)
class Document:
    """What ``tokens`` may look at: one document of n tokens."""

    index: int  # in the token store
    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    steps: np.ndarray  # (n,) uint16, step of the trace that a token lies in, from 0; 0 outside the trace
    channels: Mapping[str, np.ndarray] = field(default_factory=dict)
    """SCORER.CHANNEL -> what `score` stored, read when it is asked for: (n,) of tokens, (steps,) of steps, NaN where
    nothing is known"""


TokenFunction = Callable[[Document, int], np.ndarray]


class Weighting:
    """Base of all weightings: ``kinds``, and what else one may define. Built as ``MyWeighting(config, kinds, seed)``.

    What is None here costs something where it is defined:

    tokens(document, step)        (n,) float32, finite and >= 0: factor of each token's weight. It is computed by the
                                  loader for this rank's documents; the sums in c are then all-reduced
    dynamic(nll, p, entropy)      (C,) factors of C rows, tensors on the device, each row by itself. It never enters c.
                                  With it, ``options`` may name the ``kinds`` that it multiplies: rows of others are
                                  NaN to it and to ``observe``, and whatever it returns for them counts as 1. One
                                  whose attribute ``by_kind`` is true is told the rows' kinds, too: (C,), ``kinds=``
    observe(nll, p, entropy, ..)  sees the arguments of ``dynamic`` in training, returns nothing
    reference                     path of a model whose nll becomes the fourth argument of ``dynamic``
    reference_channel             or: SCORER.nll, the same from what `score` has stored
    given(document, step)         or: (n,) float32 >= 0, any number of each token, from the loader
    device                        where ``dynamic`` is asked, set before training begins

    ``reads`` says which stored channels it reads; ``scores`` holds them when it is asked for a step's weights.

    One that defines neither ``end_step`` nor ``state`` answers by its arguments alone: it is asked for a step before
    the last one has ended (see ``batches.prefetch``).
    """

    Options: ClassVar[type[BaseModel]] = WeightingOptions
    tokens: TokenFunction | None = None
    dynamic: Callable[..., Any] | None = None
    observe: Callable[..., None] | None = None
    reference: str | None = None
    reference_channel: str | None = None
    given: TokenFunction | None = None
    device: Any = None
    scores: Scores = {}  # noqa: RUF012  # scorer -> its channels; of a recipe that is only checked, none

    @classmethod
    def reads(cls, options: Any) -> tuple[str, ...]:
        """SCORER.CHANNEL of all that it reads, by its ``options``; a recipe is refused whose `score` lacks one."""
        return ()

    def effects(self) -> list[str]:
        """What it makes of the whole store by what it reads there, line by line: shown before training."""
        return []

    def kinds(self, step: int) -> np.ndarray:
        """(K,) float32, finite and >= 0: the weight of each kind at an optimizer step, from 0. Pad counts as 0."""
        raise NotImplementedError

    def named(self) -> list[str]:
        """Kinds and groups that the recipe means to tell apart; missing ones are reported."""
        return []

    def end_step(self) -> None:
        """Called on every rank after each update; may all-reduce."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, as JSON; the same on every rank."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state`` said; {} from a checkpoint that has none."""

    @property
    def keeps_count(self) -> bool:
        """Whether it may weigh a step by how the one before ended."""
        own = type(self)
        return own.end_step is not Weighting.end_step or own.state is not Weighting.state


def table_at(weighting: Weighting, step: int, num_kinds: int) -> np.ndarray:
    """(K,) float32 copy of a weighting's table, pad 0. Raises InputError if it is not finite, negative or misshapen."""
    table = np.array(weighting.kinds(step), dtype=np.float32)
    checked(table, (num_kinds,), f"{type(weighting).__name__}.kinds({step})", "kind")
    table[0] = 0.0
    return table


def tokens_at(weighting: Weighting, document: Document, step: int) -> np.ndarray:
    """(n,) float32 of a weighting's ``tokens``, 1 where it has none. Raises InputError naming the document if they are
    misshapen, negative or not finite."""
    if weighting.tokens is None:
        return np.ones(document.tokens.shape, np.float32)
    weights = np.asarray(weighting.tokens(document, step), dtype=np.float32)
    what = f"{type(weighting).__name__}.tokens(document {document.index}, step {step})"
    return checked(weights, document.tokens.shape, what, "token")


def checked(weights: np.ndarray, shape: tuple[int, ...], what: str, one: str) -> np.ndarray:
    if weights.shape != shape:
        raise InputError(f"{what} has the shape {weights.shape}; expected {shape}, one a {one}")
    if not ((weights >= 0) & (weights < np.inf)).all():
        raise InputError(f"{what} holds {weights.min()} to {weights.max()}; expected finite numbers >= 0")
    return weights
