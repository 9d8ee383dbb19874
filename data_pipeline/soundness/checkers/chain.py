"""The checkers that a recipe names, one after the other.

A checker is a function that gets a trace and gives findings, built in by name or your own:

    def check(trace: Trace) -> Iterable[Finding]        # my_pkg.my_module:check

Only what is found ``false`` rejects a record; what holds, and what a checker cannot tell, does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.soundness.checkers import judge
from tracestill.data_pipeline.soundness.checkers.algebra import algebra
from tracestill.data_pipeline.soundness.checkers.brackets import brackets
from tracestill.data_pipeline.soundness.checkers.conclusion import conclusion
from tracestill.data_pipeline.soundness.checkers.finding import OUTCOMES, Check, Finding, Trace
from tracestill.data_pipeline.soundness.checkers.orders import orders
from tracestill.data_pipeline.soundness.checkers.sorting import sorting
from tracestill.data_pipeline.soundness.checkers.units import units
from tracestill.data_pipeline.soundness.checkers.values import values
from tracestill.data_pipeline.soundness.conversions import conversions

EQUATIONS = "equations"
DEFAULT = (EQUATIONS, "algebra")
FALSE_EQUATION, FALSE_STEP = "false_equation", "false_step"  # reasons of rejected records


def equations(trace: Trace) -> Iterator[Finding]:
    """Every equation and conversion that can be read, under every usual reading: see ``soundness.equations`` and
    ``soundness.conversions``."""
    for one in (*trace.equations, *conversions(trace.text)):
        yield Finding(one.start, one.end, "holds" if one.holds else "false", one.text)


BUILT_IN: dict[str, Check] = {
    EQUATIONS: equations,
    "algebra": algebra,
    "values": values,
    "conclusion": conclusion,
    "units": units,
    "sorting": sorting,
    "brackets": brackets,
    "orders": orders,
}
WITH_OPTIONS: dict[str, tuple[type[BaseModel], Callable[[Any, str], Check]]] = {
    "judge": (judge.JudgeOptions, judge.make)
}
KNOWN = (*BUILT_IN, *WITH_OPTIONS)


class CheckConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    use: Name = Field(description=f"{', '.join(KNOWN)}, or my_pkg.my_module:check")
    options: dict[str, Any] = Field({}, description="judge: the teacher's `use` and `options`")


class Checks:
    """The checkers of a recipe, made ready. Raises InputError that names the recipe's field and entry."""

    def __init__(self, checks: Sequence[str | CheckConfig], field: str) -> None:
        """``field``: "" where the caller tells it."""
        configs = enumerate(map(configured, checks))
        self.named = [(config.use, make(config, f"{field}.{at}".lstrip("."))) for at, config in configs]

    def findings(self, trace: Trace, *, ask: bool = True) -> Iterator[Finding]:
        """What the checkers find, in their order; without ``ask``, of those that ask nobody. Raises InputError if one
        of the user's fails."""
        for name, check in self.named:
            if name in WITH_OPTIONS and not ask:
                continue
            if ":" not in name:
                for one in check(trace):
                    yield one._replace(checker=name, step=trace.step_at(one.start))
            else:
                yield from own_findings(name, check, trace)

    def first_false(self, trace: Trace, *, ask: bool = True) -> Finding | None:
        """The first false thing that the first checker that finds one says; None where nothing is false."""
        return next((one for one in self.findings(trace, ask=ask) if one.outcome == "false"), None)

    def fault(self, trace: Trace, *, ask: bool = True) -> tuple[str, str] | None:
        """Reason and detail for which a record is not sound; None if it is, or nobody can tell."""
        found = self.first_false(trace, ask=ask)
        if found is None:
            return None
        if found.checker == EQUATIONS:
            return FALSE_EQUATION, found.detail
        said = found.detail or trace.text[found.start : found.end]
        return FALSE_STEP, f"{found.checker}, step {found.step + 1}: {said}"


def configured(check: str | CheckConfig) -> CheckConfig:
    return CheckConfig(use=check) if isinstance(check, str) else check


def make(config: CheckConfig, field: str) -> Check:
    """The checker that a recipe's entry means."""
    if config.use in WITH_OPTIONS:
        model, ready = WITH_OPTIONS[config.use]
        return ready(check_options(model, config.options, f"{field}.options"), field)
    if config.options:
        raise InputError(f"{field}.options: '{config.use}' takes none")
    if config.use in BUILT_IN:
        return BUILT_IN[config.use]
    module, _, name = config.use.partition(":")
    if not name:
        expected = "or give an import path such as my_pkg.my_module:check"
        raise InputError(f"{field}: unknown checker '{config.use}'{nearest(config.use, KNOWN)}; {expected}")
    function: Check | None = getattr(own_modules.load(module, field), name, None)
    if not callable(function):
        raise InputError(f"{field}: {module} has no function '{name}'")
    return function


def own_findings(name: str, check: Check, trace: Trace) -> Iterator[Finding]:
    """What a checker of the user's says, held to what it may say."""
    try:
        found = list(check(trace))
    except Exception as error:  # anybody's code
        place = f"{own_modules.place_of(error)}{type(error).__name__}: {error}"
        raise InputError(f"select.checks: {name} failed on the trace {trace.text[:60]!r} ({place})") from error
    for one in found:
        try:
            start, end, outcome = one[:3]
            detail = str(one[3]) if len(one) > 3 else ""
            right = 0 <= start <= end <= len(trace.text) and outcome in OUTCOMES
        except (TypeError, ValueError):
            right = False
        if not right:
            expected = f"(start, end, one of {', '.join(OUTCOMES)}, detail) within the {len(trace.text)} characters"
            raise InputError(f"select.checks: {name} gave {one!r:.120}; expected {expected}")
        yield Finding(start, end, outcome, detail, name, trace.step_at(start))


def own_files(checks: Sequence[str | CheckConfig]) -> dict[str, Path]:
    """Name -> path of the files of the user's that check."""
    uses = [configured(check).use for check in checks]
    return {key: path for use in uses if ":" in use for key, path in own_modules.files(use.partition(":")[0]).items()}
