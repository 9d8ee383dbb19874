"""The sections about an evaluation, in the order of the page: each is a function of what the report found, empty where
its part was not measured."""

from __future__ import annotations

from collections.abc import Callable

from tracestill.launch.report.arms import held_out
from tracestill.launch.report.evaluation.budgets import budgets
from tracestill.launch.report.evaluation.cause import cause
from tracestill.launch.report.evaluation.harness import harness
from tracestill.launch.report.evaluation.matrix import transfer
from tracestill.launch.report.evaluation.quality import general, quality
from tracestill.launch.report.evaluation.samples import samples
from tracestill.launch.report.parts import Found

SECTIONS: tuple[Callable[[Found], str], ...] = (transfer, samples, budgets, cause, quality, held_out, general, harness)


def evaluation(found: Found) -> str:
    return "".join(section(found) for section in SECTIONS)
