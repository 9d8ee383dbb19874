"""Held-out questions asked otherwise: by programs, by a teacher in other words, and questions of further sources."""

from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.variations.variation import Variation, with_text

__all__ = ["Question", "Variation", "with_text"]
