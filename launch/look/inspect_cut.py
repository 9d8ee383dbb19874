"""What ``encode.granularity`` took out of a document: its record's trace before, with what went."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity import Cut, Granularity, GranularityConfig, own_module
from tracestill.data_pipeline.guards.visible import one_line
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter
from tracestill.data_pipeline.segmentation import own_module as own_segmenter


def cut_again(
    record: Record, segment: SegmentConfig, config: GranularityConfig, kinds: Kinds
) -> tuple[Record, Cut] | None:
    """The record with its spans, and as it was cut; None where a function of the user's decides, which is not imported
    to look."""
    if own_module(config) or (own_segmenter(segment) and not record.spans):
        return None
    whole = Segmenter(segment.model_copy(update={"by": "spans"}) if own_segmenter(segment) else segment)(record)
    return whole, Granularity(config, kinds)(whole)


def said(whole: Record, cut: Cut, config: GranularityConfig) -> str:
    """What became of a record, in words."""
    way = config.keep if config.ratio is None else f"{config.keep} ({config.ratio})"
    if cut.outcome == "not_cut":
        return f"granularity {way}: not cut ({cut.reason}), all of the trace stays"
    if cut.outcome == "whole":
        return f"granularity {way}: there was nothing to cut"
    return f"granularity {way}: {len(cut.record.trace):,} of the trace's {len(whole.trace):,} characters stay; before:"


def before_lines(whole: Record, cut: Cut) -> Iterator[tuple[str, str, bool]]:
    """Kind and text of each stretch of a record's trace, and whether it went."""
    bounds = {0, len(whole.trace), *(at for each in cut.gone for at in each), *(span.end for span in whole.spans)}
    ordered = sorted(bounds)
    spans = iter(whole.spans)
    span = next(spans)
    for start, end in itertools.pairwise(ordered):
        while span.end <= start:
            span = next(spans)
        text = one_line(whole.trace[start:end].strip(" "))
        if text:
            yield span.kind, text, any(first <= start and end <= last for first, last in cut.gone)
