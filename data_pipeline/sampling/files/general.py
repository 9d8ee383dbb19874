"""Rows of a source of general text: prompt and response, or plain text. They are kept as they are, without a trace.

A specialist that trains on a share of them keeps its other skills. No teacher is asked, no answer judged, and none is
held out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from tracestill.data_pipeline.base.schema import GENERAL
from tracestill.data_pipeline.sampling.files.lines import Bad
from tracestill.data_pipeline.sampling.files.posings import Posing, Reading, Written
from tracestill.data_pipeline.sampling.teachers import Said

TEXTS = ("text", "content", "document")  # fields that hold a whole text


class GeneralText(NamedTuple):
    prompt: str  # empty: the text stands by itself
    written: Written
    posing: Posing | None  # what else the row says; None for plain text


def text_field(names: Mapping[str, Any], given: str | None) -> str | None:
    """The field that holds plain text in rows without a question."""
    return given or next((name for name in TEXTS if name in names), None)


def general_text(row: dict[str, Any], reading: Reading) -> GeneralText:
    """What a row of such a source says. Raises Bad if it has no text, a thought of its own, or is to be held out."""
    if not (reading.fields.question or reading.fields.messages):
        text = reading.text("trace", reading.value("trace", row))
        return GeneralText("", Written(Said(text), GENERAL), None)
    posing = reading(row)
    if posing.split not in ("", "train"):
        raise Bad("held_out", f"general text is for training only, and this row's split is {posing.split}")
    if not posing.written:  # what was taken for the reference answer is the response
        return GeneralText(posing.question, Written(Said(posing.gold or ""), GENERAL), posing)
    written = posing.written[0]
    if len(posing.written) > 1 or written.said.reasoning:
        what = "several responses" if len(posing.written) > 1 else "a thought apart from its text"
        raise Bad("not_general", f"general text has one response and no trace, and this row has {what}")
    return GeneralText(posing.question, written._replace(teacher=written.teacher or GENERAL), posing)
