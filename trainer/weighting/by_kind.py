"""Built-in weightings that are one table by kind: ``span``, ``answer_only``, ``trace_only``, ``prompt_loss``."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field, field_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.trainer.weighting.base import MultiplierOptions, Weighting, WeightingOptions
from tracestill.trainer.weighting.schedule import Schedule, Weight, at, read_weight
from tracestill.trainer.weighting.weighting import WeightingConfig, read_options


class SpanWeighting(Weighting):
    """Weights by kind or group, as the recipe's ``weights`` say; the base of the built-in weightings.

        w_i = weights[kind_i](step)

    Raises ValueError naming the nearest known kind if ``weights`` names an unknown one.
    """

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


class Masked(SpanWeighting):
    """The recipe's ``weights``, with some kinds at 0 whatever they say."""

    without: ClassVar[tuple[str, ...]] = ()

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        masked = [member for name in self.without for member in kinds.members(name)]
        self.mask = kinds.table(dict.fromkeys(masked, 0.0), default=1.0)
        super().__init__(config, kinds, seed)

    def kinds(self, step: int) -> np.ndarray:
        return super().kinds(step) * self.mask


class AnswerOnly(Masked):
    """The student reads the trace but learns the answer alone.

        w_i = 0 for prompt and trace, else weights[kind_i]

    What a trace teaches is then only what it makes the answer easier to predict: the control for "does imitating
    the trace matter". Not to be confused with documents without a trace (``encode: {trace: drop}``).
    """

    without = ("prompt", "trace")


class TraceOnly(Masked):
    """The student learns the trace alone.

        w_i = 0 for prompt and answer, else weights[kind_i]

    Control symbols keep their weight, or the student would never learn to end a trace.
    """

    without = ("prompt", "answer")


class PromptLossOptions(WeightingOptions):
    prompt: float | Schedule = Field(0.1, description="weight of the prompt")
    response: float | Schedule = Field(1.0, description="factor of the weights of everything else")

    @field_validator("prompt", "response", mode="before")
    @classmethod
    def _number_or_schedule(cls, value: object) -> object:
        return read_weight(value, "the weight")


class PromptLoss(SpanWeighting):
    """A little loss on the prompt.

        w_i = prompt for kind prompt, else response * weights[kind_i]

    Huerta-Enochian and Ko (arXiv 2401.13586) find that a small prompt weight helps where answers are short beside
    prompts; Chatterjee and others (arXiv 2507.07817, weighted instruction tuning) weigh prompt and response apart and
    divide by the number of tokens of non-zero weight, which is ``normaliser: tokens``. With ``normaliser: weights``
    only the ratio of the two matters.
    """

    Options: ClassVar[type[BaseModel]] = PromptLossOptions

    def kinds(self, step: int) -> np.ndarray:
        table = super().kinds(step) * np.float32(at(self.options.response, step))
        table[self.span_kinds.id("prompt")] = at(self.options.prompt, step)
        return table

    def named(self) -> list[str]:
        return ["prompt", *self.weights]
