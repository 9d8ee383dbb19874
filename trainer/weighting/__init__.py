"""Which tokens count, and how much: weights by kind, token, model and step, and what divides their sum."""

from tracestill.trainer.weighting.base import Document, MultiplierOptions, TokenFunction, Weighting, WeightingOptions
from tracestill.trainer.weighting.by_kind import SpanWeighting
from tracestill.trainer.weighting.schedule import Schedule
from tracestill.trainer.weighting.target_weights import TargetWeights
from tracestill.trainer.weighting.weighting import (
    BUILT_IN,
    STOP,
    WeightingConfig,
    channels_of,
    check_control,
    find,
    is_out_of_sight,
    make_weighting,
    multiplied_kinds,
    own_module,
)

__all__ = [
    "BUILT_IN",
    "STOP",
    "Document",
    "MultiplierOptions",
    "Schedule",
    "SpanWeighting",
    "TargetWeights",
    "TokenFunction",
    "Weighting",
    "WeightingConfig",
    "WeightingOptions",
    "channels_of",
    "check_control",
    "find",
    "is_out_of_sight",
    "make_weighting",
    "multiplied_kinds",
    "own_module",
]
