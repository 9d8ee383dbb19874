"""Questions that are not put to a student, and why. They are counted, and count as wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

REFUSED, OVERLONG = "control_in_text", "overlong"  # as encoding says of a record


class Unasked(NamedTuple):
    """Why a question was not put to a student."""

    reason: str  # REFUSED: its text holds a control symbol, which an export would read as one; OVERLONG: it is too long
    detail: str = ""


def was_asked(row: Mapping[str, Any]) -> bool:
    """Whether the question of a prediction was put to the student."""
    return row["read_by"] not in (REFUSED, OVERLONG)
