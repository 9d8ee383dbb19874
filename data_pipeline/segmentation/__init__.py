"""A trace cut into spans, each of a kind that says what it is for."""

from tracestill.data_pipeline.segmentation.parts import Part, spans_of
from tracestill.data_pipeline.segmentation.segmenter import SegmentConfig, Segmenter, own_module

__all__ = ["Part", "SegmentConfig", "Segmenter", "own_module", "spans_of"]
