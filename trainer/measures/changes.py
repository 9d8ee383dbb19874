"""Changes to a student's own trace, step by step, after which it is to go on: pure functions of texts.

After Lanham et al. (arXiv 2307.13702), who cut, corrupt and blank the trace as a whole; here each step by itself. The
way ``same`` changes nothing: what it moves is moved by writing the trace again, and by rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.segmentation import Part
from tracestill.data_pipeline.segmentation.parts import step_ends

SAME, CUT = "same", "cut"
BLANK = "..."
NUMBER = re.compile(r"[0-9]+")
DIGITS = 9  # other digits than one


class Change(NamedTuple):
    """What a student is made to have written, in place of its own trace."""

    way: str
    step: int  # from 0
    kind: str  # of that step
    trace: str | None  # up to the change; None: it cannot be made
    closed: bool = False  # and then it has to answer


def steps_of(trace: str) -> list[str]:
    """The steps of a trace, as ``segmentation`` cuts them; joined they are the trace."""
    ends = step_ends(trace)
    return [trace[start:end] for start, end in zip((0, *ends), ends, strict=False)]


def spread(steps: int, most: int | None) -> list[int]:
    """Which of so many steps are looked at: all, or ``most`` of them, the first and the last among them."""
    if most is None or steps <= most:
        return list(range(steps))
    return [round(at * (steps - 1) / max(most - 1, 1)) for at in range(most)]


def changes(
    trace: str, kinds: Sequence[str], other: str, ways: Sequence[str], most: int | None, draw: int
) -> Iterator[Change]:
    """Every change of a trace. One cannot be made where a step has no number, or the other one says the same.

    ``kinds``: of the steps. ``other``: a trace of another question, whose step at the same place is swapped in, or of a
    shorter one the last. ``draw`` decides which digit a number gets.
    """
    steps, foreign = steps_of(trace), steps_of(other) or [""]
    for at in spread(len(steps), most):
        before, step, kind = "".join(steps[:at]), steps[at], kinds[at]
        made = {
            SAME: step,
            "corrupt": corrupted(step, draw + at),
            "swap": swapped(step, foreign[min(at, len(foreign) - 1)]),
            "blank": in_place(BLANK, step),
        }
        for way in (SAME, *ways):
            if way == CUT:
                yield Change(way, at, kind, before.strip(), closed=True)
            else:
                changed = made[way]
                yield Change(way, at, kind, None if changed is None else open_end(before + changed))


def corrupted(step: str, draw: int) -> str | None:
    """A step whose last number ends in another digit; None if it has no number."""
    found = [*NUMBER.finditer(step)]
    if not found:
        return None
    at = found[-1].end() - 1
    digit = (int(step[at]) + 1 + draw % DIGITS) % 10
    return f"{step[:at]}{digit}{step[at + 1 :]}"


def swapped(step: str, other: str) -> str | None:
    """The other step in the place of this one; None if there is none, or they say the same."""
    return in_place(other.strip(), step) if other.strip() and other.strip() != step.strip() else None


def in_place(text: str, step: str) -> str:
    """A text with the white space that stands behind a step."""
    return text + step[len(step.rstrip()) :]


def open_end(trace: str) -> str:
    """A trace that goes on: a space at its end would be a token of its own, where the next word brings one."""
    return trace.rstrip(" \t")


def kinds_of(trace: str, parts: Sequence[Part], kinds: Kinds) -> list[str]:
    """The kind of each step: that of most of its characters, as one of the kinds right below ``trace``."""
    found, start = [], 0
    bounds, begin = [], 0
    for part in parts:
        bounds.append((begin, part.end, top_of(part.kind, kinds.lineages)))
        begin = part.end
    for end in step_ends(trace):
        sizes: dict[str, int] = {}
        for low, high, kind in bounds:
            if (size := min(high, end) - max(low, start)) > 0:
                sizes[kind] = sizes.get(kind, 0) + size
        found.append(max(sizes, key=lambda kind: sizes[kind]) if sizes else "")
        start = end
    return found


def top_of(kind: str, lineages: Mapping[str, Sequence[str]]) -> str:
    line = [name for name in lineages.get(kind, (kind,)) if name != "trace"]
    return line[-1] if line else kind
