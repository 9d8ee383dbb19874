"""Built-in weightings that look at single tokens: ``steps_last_first`` and ``random_drop``."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field, field_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.weighting.base import Document, WeightingOptions
from tracestill.trainer.weighting.by_kind import SpanWeighting
from tracestill.trainer.weighting.schedule import Schedule, at, read_share
from tracestill.trainer.weighting.weighting import WeightingConfig


class StepsLastFirstOptions(WeightingOptions):
    share: float | Schedule = Field(
        description="share of a trace's steps that is learnt, counted from its end, in [0, 1]: a schedule such as "
        "{from: 0, to: 1, steps: 300}"
    )

    @field_validator("share", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        return read_share(value, "the share")


class StepsLastFirst(SpanWeighting):
    """A curriculum inside the trace, from the answer backwards.

        w_i = weights[kind_i] * (1 if i lies outside the trace or step_i >= M - ceil(share(step) * M) else 0)

    with M the number of steps of the document's trace. At first the student is given all but the last steps and
    continues them; in the end it writes the whole. After the progressive distillation of KPOD (Feng and others, ICML
    2024, arXiv 2405.16064), which also orders by measured difficulty; here every trace advances alike.
    """

    Options: ClassVar[type[BaseModel]] = StepsLastFirstOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        super().__init__(config, kinds, seed)
        self.in_trace = kinds.mask(["trace"])

    def tokens(self, document: Document, step: int) -> np.ndarray:
        inside = self.in_trace[document.kinds]
        steps = document.steps.astype(np.int64)
        count = int(steps[inside].max()) + 1 if inside.any() else 0
        learnt = math.ceil(round(at(self.options.share, step) * count, 9))  # 0.1 * 30 is a little more than 3
        return (~inside | (steps >= count - learnt)).astype(np.float32)

    def named(self) -> list[str]:
        return ["trace", *self.weights]


class RandomDropOptions(WeightingOptions):
    keep: float = Field(gt=0, le=1, description="probability that a token keeps its weight")
    kinds: tuple[str, ...] = Field(("trace",), min_length=1, description="kinds or groups whose tokens are dropped")


class RandomDrop(SpanWeighting):
    """Tokens lose their weight at random: the control that every selective weighting has to beat.

        w_i = weights[kind_i] * (1 if u(seed, document, position, step) < keep else 0)    for the given kinds

    u is uniform in [0, 1), a hash of its arguments: the same on every rank, in every order, and after a resume.
    Pruning traces by a score is often no better than this (arXiv 2607.28707).
    """

    Options: ClassVar[type[BaseModel]] = RandomDropOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        super().__init__(config, kinds, seed)
        self.droppable = kinds.mask(self.options.kinds)

    def named(self) -> list[str]:
        return [*self.options.kinds, *self.weights]

    def tokens(self, document: Document, step: int) -> np.ndarray:
        kept = uniform(self.seed, document.index, step, len(document.tokens)) < self.options.keep
        return (kept | ~self.droppable[document.kinds]).astype(np.float32)


def uniform(seed: int, document: int, step: int, n: int) -> np.ndarray:
    """(n,) float64 in [0, 1): a hash of (seed, document, position, step), without any state.

    Each argument is mixed in by the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    state = np.zeros(1, dtype=np.uint64)
    for value in (seed, document, step):
        state = mixed(state ^ np.uint64(value % 2**64))
    positions = np.arange(n, dtype=np.uint64)
    return (mixed(state + positions) >> np.uint64(11)) * 2.0**-53


def mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's increment and finaliser, elementwise on uint64; arithmetic wraps."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
