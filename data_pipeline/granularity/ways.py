"""Which units of a trace stay, by each way of cutting; the unit that concludes always does."""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import NamedTuple

from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.granularity.units import SAYS, Unit
from tracestill.data_pipeline.granularity.values import Flow, answer_value, closure, concluding

NO_ANSWER, NO_VALUES = "no_answer", "no_values"


class Uncut(Exception):
    """A trace that a way cannot cut, and the reason."""


class Case(NamedTuple):
    """A trace to be cut."""

    record: Record
    units: list[Unit]
    flows: list[Flow]
    prose: Collection[str]  # kinds


def decisive(case: Case) -> list[bool]:
    """The units on which the one that gives the answer depends."""
    needed = needed_by_answer(case)
    return settled(case, [at in needed for at in range(len(case.units))])


def needed_by_answer(case: Case) -> dict[int, int]:
    """Units that the answer depends on, and how many steps they are away from it. Raises Uncut where values do not
    tell."""
    end = concluding(case.record, case.units, case.flows)
    if end is None:
        raise Uncut(NO_ANSWER)
    needed = closure(case.units, case.flows, case.record, end)
    if not any(case.flows[at].gives or case.flows[at].computes for at in needed):
        raise Uncut(NO_VALUES)  # who sits where, yes or no
    return needed


def no_prose(case: Case) -> list[bool]:
    """All but prose, clause by clause; but what something that stays speaks of."""
    keep = [not all_prose(case, unit) for unit in case.units]
    end, value = concluding(case.record, case.units, case.flows), answer_value(case.record.answer)
    if end is not None and (value is None or not any(keep[at] and value in f.holds for at, f in enumerate(case.flows))):
        keep[end] = True
    return settled(case, keep)


def all_prose(case: Case, unit: Unit) -> bool:
    text, spans = case.record.trace, case.record.spans
    inside = (s for s in spans if s.end > unit.body and s.start < unit.end)
    return all(
        s.kind in case.prose or not SAYS.search(text, max(s.start, unit.body), min(s.end, unit.end)) for s in inside
    )


def until_conclusion(case: Case) -> list[bool]:
    """Up to where the answer is found for the first time and said again, or checked (arXiv 2605.29288).

    A value equal to the answer's that the answer depends on is an earlier one, and no conclusion.
    """
    needed = needed_by_answer(case)
    target = next(at for at, away in needed.items() if away == 0)
    value = answer_value(case.record.answer)
    end = confirmed(case, target, len(case.units), value, in_words=False)
    for first in range(target):
        flow = case.flows[first]
        if flow.computes and value in flow.gives and first not in needed:
            again = confirmed(case, first, target, value, in_words=True)
            if again > first:
                end = again
                break
    return settled(case, [at <= end for at in range(len(case.units))])


def confirmed(case: Case, first: int, last: int, value: float | None, *, in_words: bool) -> int:
    """The first unit behind ``first`` that checks the answer or says it again (``in_words``: as what follows); or
    ``first``, if one before that goes on to compute."""
    for at in range(first + 1, last):
        flow = case.flows[at]
        again = value in (flow.tells if in_words else flow.holds) and not flow.computes
        if value in flow.holds and (flow.checks or again):
            return at
        if flow.computes and not flow.checks:
            break
    return first


def by_importance(case: Case, share: float) -> list[bool]:
    """About ``share`` of the characters: what the answer depends on least goes first."""
    ranks = importance(case)
    return thinned(case, sorted(range(len(ranks)), key=lambda at: (ranks[at], at)), share)


def importance(case: Case) -> list[float]:
    """How much the answer depends on each unit: by value flow, the nearer the more; of the others, prose the least.
    What a model measures is known of encoded documents, and acts there: the weighting ``critical``."""
    try:
        away = needed_by_answer(case)
    except Uncut:
        away = {}
    return [1 / (1 + away[at]) if at in away else -float(all_prose(case, unit)) for at, unit in enumerate(case.units)]


def random_drop(case: Case, share: float) -> list[bool]:
    """About ``share`` of the characters, drawn by the record's id: the control of every other way."""
    order = list(range(len(case.units)))
    random.Random(case.record.record_id).shuffle(order)
    return thinned(case, order, share)


def thinned(case: Case, order: Sequence[int], share: float) -> list[bool]:
    """Drop units in an order as long as that brings the characters that are left nearer to ``share`` of them."""
    sizes = sizes_of(case)
    end = concluding(case.record, case.units, case.flows)
    last = max(at for at, unit in enumerate(case.units) if not unit.leads_in or at == len(sizes) - 1)
    protected = last if end is None else end
    keep, left, target = [True] * len(sizes), sum(sizes), share * sum(sizes)
    leaning: list[list[int]] = [[] for _ in sizes]
    for at, unit in enumerate(case.units):
        for other in unit.needs:
            leaning[other].append(at)
    for at in order:
        if not keep[at]:
            continue
        gone = falls_with(case.units, leaning, keep, at)
        size = sum(sizes[other] for other in gone)
        if protected not in gone and abs(left - size - target) < abs(left - target):
            left -= size
            for other in gone:
                keep[other] = False
    return keep


def sizes_of(case: Case) -> list[int]:
    """Characters of each unit that are no white space."""
    return [len("".join(case.record.trace[unit.start : unit.end].split())) for unit in case.units]


def share_kept(case: Case, keep: Sequence[bool]) -> float:
    sizes = sizes_of(case)
    return sum(size for size, kept in zip(sizes, keep, strict=True) if kept) / max(sum(sizes), 1)


def falls_with(units: Sequence[Unit], leaning: Sequence[Sequence[int]], keep: Sequence[bool], at: int) -> set[int]:
    """A unit and those left that do not read on without it: what speaks of it (``leaning`` on each), and what leads to
    nothing else."""
    gone, waiting = {at}, [at]
    for one in waiting:
        lost = [other for other in leaning[one] if keep[other]]
        if one and keep[one - 1] and units[one - 1].leads_in:
            lost.append(one - 1)
        waiting += (new := [other for other in lost if other not in gone])
        gone.update(new)
    return gone


def settled(case: Case, keep: list[bool]) -> list[bool]:
    """With what the units that stay speak of, and without words that lead to what goes."""
    waiting = [at for at, kept in enumerate(keep) if kept]
    for at in waiting:
        for other in sorted(case.units[at].needs):
            if not keep[other]:
                keep[other] = True
                waiting.append(other)
    needed = {other for at, unit in enumerate(case.units) if keep[at] for other in unit.needs}
    for at in range(len(keep) - 2, -1, -1):
        if case.units[at].leads_in and not keep[at + 1] and at not in needed and not case.flows[at].computes:
            keep[at] = False
    return keep
