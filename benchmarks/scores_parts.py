"""A weighting of the benchmark's own: the beginning or the end of each trace. scores.py copies it beside its recipe."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
from pydantic import BaseModel, Field

from tracestill.trainer.weighting import Document, SpanWeighting, WeightingOptions


class PartOptions(WeightingOptions):
    share: float = Field(gt=0, le=1, description="of each trace's tokens")
    end: bool = Field(False, description="the last ones instead of the first")


class Part(SpanWeighting):
    """w_i = weights[kind_i] * (1 if i is outside the trace or among its first (last) ceil(share * m) tokens of m)."""

    Options: ClassVar[type[BaseModel]] = PartOptions

    def tokens(self, document: Document, step: int) -> np.ndarray:
        inside = np.flatnonzero(self.span_kinds.mask(["trace"])[document.kinds])
        kept = math.ceil(round(self.options.share * len(inside), 9))
        weights = np.ones(len(document.tokens), np.float32)
        weights[inside[:-kept] if self.options.end else inside[kept:]] = 0
        return weights
