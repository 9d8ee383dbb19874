"""Weightings: from span kinds to loss weights, at training time, without touching the tokenised data.

    L = sum_i w_i * c * nll_i      over all targets of one optimizer step, on all ranks
    w_i = weight(kind_i, step) * record weight of i's document
    c = 1 / sum_i w_i              (normaliser ``weights``)

The sum follows from the plan, the per-document counts of each kind and the weights, so every rank knows c
before the step begins and nothing is communicated.
"""

from __future__ import annotations

import math
from typing import Literal, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.kinds import Kinds


class WeightingConfig(BaseModel):
    """The ``weighting`` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights: dict[str, float] = Field(
        default={"prompt": 0.0},
        description="weight of each kind or group (trace); a kind's own name wins; what is not named weighs 1, pad 0",
    )
    normaliser: Literal["weights"] = Field("weights", description="what the weighted sum is divided by")

    @field_validator("weights")
    @classmethod
    def _finite(cls, weights: dict[str, float]) -> dict[str, float]:
        for name, value in weights.items():
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"weight of '{name}' is {value}; expected a finite number >= 0")
        return weights


class Weighting(Protocol):
    """What a weighting has to offer."""

    def kinds(self, step: int) -> np.ndarray:
        """(K,) float32, finite and >= 0: the weight of each kind at an optimizer step."""
        ...


class SpanWeighting:
    """Static weights by kind or group."""

    def __init__(self, config: WeightingConfig, kinds: Kinds) -> None:
        """Raises ValueError naming the nearest known kind if ``config.weights`` names an unknown one."""
        self.table = kinds.table(config.weights, default=1.0)

    def kinds(self, step: int) -> np.ndarray:
        return self.table


def weight_sum(
    counts: np.ndarray,  # (D, K) int32: targets of each kind in the documents of one step, on all ranks
    record_weights: np.ndarray,  # (D,) float32
    table: np.ndarray,  # (K,) float32
) -> float:
    """Sum of w over all targets of the step, in float64; 0.0 for a step without any weight."""
    return float((counts.astype(np.float64) @ table.astype(np.float64)) @ record_weights.astype(np.float64))
