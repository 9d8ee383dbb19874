"""What is false in traces, by those of ``select.checks`` that ask nobody and are no code of the user's."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from tracestill.data_pipeline.base.workers import cores, shared_out
from tracestill.data_pipeline.soundness.checkers import Trace
from tracestill.data_pipeline.soundness.checkers.chain import EQUATIONS, WITH_OPTIONS, Checks, configured
from tracestill.launch.report.records.shown import Mark
from tracestill.trainer.recipe.recipe import Recipe

AT_A_TIME = 64  # traces that a process gets
A_PROCESS = 1_000_000  # characters for which another process is worth its start


class Asked(NamedTuple):
    """A trace, and the names of the checkers that look at it."""

    checkers: tuple[str, ...]
    text: str
    question: str = ""
    answer: str = ""
    gold: str = ""


def checkers_of(recipe: Recipe) -> tuple[str, ...]:
    """Those of a recipe's checkers that may be asked to look: nobody's time or code is."""
    uses = (configured(check).use for check in recipe.select.checks)
    return tuple(use for use in uses if ":" not in use and use not in WITH_OPTIONS)


def false_in(asked: Asked) -> list[Mark]:
    """The false stretches of a trace, each with what is said of it."""
    if not asked.checkers or not asked.text.strip():
        return []
    trace, found = Trace(asked.text, asked.question, asked.answer, asked.gold), []
    for one in checks(asked.checkers).findings(trace, ask=False):
        if one.outcome != "false":
            continue
        start, end = one.start, one.end
        if start == end:  # a checker that names a place, not a stretch
            start, end = trace.starts[one.step], trace.ends[one.step]
        said = one.detail if one.checker == EQUATIONS else f"{one.checker}: {one.detail}".removesuffix(": ")
        found.append((start, end, said))
    return found


@functools.cache
def checks(checkers: tuple[str, ...]) -> Checks:
    return Checks(checkers, "select.checks")


def false_in_all(asked: Sequence[Asked], workers: int | None) -> list[list[Mark]]:
    """``false_in`` of each, in so many processes; None: as many as cores, of a few traces this one alone."""
    parts = [asked[at : at + AT_A_TIME] for at in range(0, len(asked), AT_A_TIME)]
    count = workers or min(cores(), 1 + sum(len(one.text) for one in asked) // A_PROCESS)
    return [marks for part in shared_out(false_in_each, parts, count, "select.workers") for marks in part]


def false_in_each(asked: Sequence[Asked]) -> list[list[Mark]]:
    return [false_in(one) for one in asked]
