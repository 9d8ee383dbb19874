"""Which settings of a recipe ``tracestill bench`` tries, in which order, and what it recommends. Runs nothing itself.

A setting is a ZeRO stage, the size of a micro-step (``plan.capacity``: the tokens of the pack that a rank computes at
a time, with as many packs a step as leave the step's tokens the same), and whether layers are computed again in the
backward pass. The search climbs: along one axis as long as it helps, then along the next, until a round of all axes
brings nothing. It finds the best of the grid if no two axes have to change at once; ``everything`` measures the grid.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tracestill.trainer.recipe.recipe import Recipe

GAIN = 1.02  # of the throughput: less is noise
STAGES = (0, 1, 2, 3)
FACTORS = (0.25, 0.5, 1, 2, 4, 8)  # of the recipe's capacity
Result = dict[str, Any]  # a case's result.json; or ``problem``, why there is none


@dataclass(frozen=True)
class Setting:
    """What is tried."""

    zero: int
    capacity: int  # tokens a micro-step
    packs: int  # a step, over all ranks
    recompute: bool

    @property
    def name(self) -> str:
        return f"zero{self.zero}-{self.packs}x{self.capacity}{'-recompute' if self.recompute else ''}"

    def changes(self) -> dict[str, Any]:
        """Of the recipe, as its YAML is nested. The group of the plan follows anew from the packs."""
        return {
            "train": {"zero": self.zero},
            "plan": {"capacity": self.capacity, "packs_per_step": self.packs, "group": 0},
            "student": {"activation_checkpointing": self.recompute},
        }

    def as_options(self, than: Setting, prefix: str = "") -> list[str]:
        """The options of the command line that turn the setting ``than`` into this one; ``prefix`` is ``arms.<arm>.``
        of an arm beside the main one."""
        pairs = [
            ("train.zero", self.zero, than.zero),
            ("plan.capacity", self.capacity, than.capacity),
            ("plan.packs_per_step", self.packs, than.packs),
            ("plan.group", 0 if self.packs != than.packs else "", ""),
            ("student.activation_checkpointing", str(self.recompute).lower(), str(than.recompute).lower()),
        ]
        return [f"--set {prefix}{key}={value}" for key, value, old in pairs if value != old]


@dataclass(frozen=True)
class Axes:
    """The values that may be tried."""

    zero: Sequence[int]
    capacity: Sequence[int]  # in increasing order
    recompute: Sequence[bool]

    def nearest(self, own: Setting) -> Setting:
        """The setting inside of the axes that is most like the recipe's own one."""
        zero = min(self.zero, key=lambda stage: abs(stage - own.zero))
        capacity = min(self.capacity, key=lambda tokens: abs(tokens - own.capacity), default=own.capacity)
        way = own.recompute if own.recompute in self.recompute else self.recompute[0]
        return replace(resized(own, capacity, own.packs * own.capacity), zero=zero, recompute=way)


def own_setting(recipe: Recipe) -> Setting:
    """What the recipe itself says."""
    plan, stage = recipe.plan, recipe.train.zero
    return Setting(
        1 if stage == "auto" else stage, plan.capacity, plan.packs_per_step, recipe.student.activation_checkpointing
    )


def axes_of(
    recipe: Recipe,
    *,
    longest: int,
    ranks: int,
    zero: Sequence[int] = (),
    capacity: Sequence[int] = (),
    recompute: bool | None = None,
) -> Axes:
    """What to try: the values given, or else every stage that can offload as the recipe does, the recipe's capacity
    times FACTORS, and both ways.

    A capacity holds the ``longest`` document, and leaves each of the ``ranks`` that read packs of their own one.
    """
    own = own_setting(recipe)
    tokens = own.packs * own.capacity
    found = capacity or [round(own.capacity * factor) for factor in FACTORS]
    fitting = sorted({c for c in found if longest <= c and (c <= own.capacity or tokens // c >= ranks)})
    ways = [False, True] if recompute is None else [recompute]
    stages = recipe.train.offload.stages
    if ranks * recipe.train.sequence_parallel == 1:
        stages = tuple(stage for stage in stages if stage != 2)  # which holds what 1 holds, and copies more
    return Axes(zero or stages, fitting, ways)


def resized(setting: Setting, capacity: int, tokens: int) -> Setting:
    """The setting at another capacity, with about ``tokens`` a step."""
    return replace(setting, capacity=capacity, packs=max(1, round(tokens / capacity)))


def speed(result: Result) -> float:
    """Tokens a second; 0 where it did not run."""
    return 0.0 if "problem" in result else float(result["tokens_per_second"])


def climb(own: Setting, axes: Axes, measure: Callable[[Setting], Result]) -> dict[Setting, Result]:
    """Measure from ``own`` uphill; every setting that was tried, with its result, ``own`` first."""
    seen: dict[Setting, Result] = {}
    tokens = own.packs * own.capacity

    def look(setting: Setting) -> float:
        if setting not in seen:
            seen[setting] = measure(setting)
        return speed(seen[setting])

    look(own)
    best = axes.nearest(own)
    for _ in range(3):
        before = best
        for way in (1, -1) if look(best) else (-1,):  # larger micro-steps, or else smaller ones
            while (following := beside(axes.capacity, best.capacity, way)) is not None:
                tried = resized(best, following, tokens)
                if look(tried) < GAIN * look(best):
                    break
                best = tried
        for stage in axes.zero:
            best = max(best, replace(best, zero=stage), key=lambda s: look(s) * (GAIN if s == best else 1))
        for way_back in axes.recompute:
            tried = replace(best, recompute=way_back)
            best = max(best, tried, key=lambda s: look(s) * (GAIN if s == best else 1))
            larger = beside(axes.capacity, best.capacity, 1)
            # what does not fit as it is may fit when layers are computed again
            if way_back and larger is not None and "problem" in seen.get(resized(best, larger, tokens), {}):
                tried = replace(resized(best, larger, tokens), recompute=True)
                best = tried if look(tried) > GAIN * look(best) else best
        if best == before:
            break
    return seen


def everything(own: Setting, axes: Axes, measure: Callable[[Setting], Result]) -> dict[Setting, Result]:
    """Measure the whole grid, ``own`` first."""
    tokens = own.packs * own.capacity
    grid = [
        resized(Setting(stage, own.capacity, own.packs, way), capacity, tokens)
        for stage, capacity, way in itertools.product(axes.zero, axes.capacity, axes.recompute)
    ]
    return {setting: measure(setting) for setting in dict.fromkeys([own, *grid])}


def beside(values: Sequence[int], value: int, way: int) -> int | None:
    """The next larger or smaller of the sorted values, or None."""
    others = [v for v in values if (v - value) * way > 0]
    return (min(others) if way > 0 else max(others)) if others else None


def recommend(own: Setting, seen: Mapping[Setting, Result]) -> tuple[Setting, list[str]]:
    """The setting to use, and why. Of settings that are as fast, the one that needs less memory; the recipe's own one
    if it is among the fastest."""
    ran = {setting: result for setting, result in seen.items() if speed(result)}
    fastest = max(ran, key=lambda s: speed(ran[s]))
    equal = [s for s in ran if speed(ran[s]) * GAIN >= speed(ran[fastest])]
    best = own if own in equal else min(equal, key=lambda s: ran[s]["memory_gib"])
    reasons = []
    failed = f" ({len(seen) - len(ran)} more did not run)" if len(ran) < len(seen) else ""
    if len(ran) == 1 and best == own:
        reasons.append(f"nothing to compare it with: only the recipe's own setting {'ran' if failed else 'was tried'}")
        reasons[0] += failed
    elif best == own and best == fastest:
        reasons.append(f"the recipe's own setting is the fastest of {len(ran)} that ran{failed}")
    elif best == own:
        slower = 1 - speed(ran[own]) / speed(ran[fastest])
        reasons.append(
            f"the recipe's own setting is as good as the fastest of {len(ran)} that ran{failed}: {fastest.name} was "
            f"{slower:.1%} faster, and less than {GAIN - 1:.0%} is noise"
        )
    elif own in ran:
        reasons.append(f"{speed(ran[best]) / speed(ran[own]) - 1:+.0%} tokens a second over the recipe's own setting")
    else:
        reasons.append(f"the recipe's own setting does not run: {seen[own]['problem']}")
    if best != fastest and best != own:
        reasons.append(
            f"as fast as {fastest.name} within {GAIN - 1:.0%}, with {ran[best]['memory_gib']:.1f} GiB a rank, not "
            f"{ran[fastest]['memory_gib']:.1f}"
        )
    for text, other in (
        ("recomputing layers", replace(best, recompute=True)),
        ("not recomputing layers", replace(best, recompute=False)),
        *((f"ZeRO {stage}", replace(best, zero=stage)) for stage in STAGES),
    ):
        if other != best and other in seen:
            reasons.append(f"{text}: {compared(seen[other], ran[best])}")
    for other, result in seen.items():
        if other.capacity != best.capacity and (other.zero, other.recompute) == (best.zero, best.recompute):
            reasons.append(f"micro-steps of {other.capacity} tokens: {compared(result, ran[best])}")
    return best, reasons


def compared(result: Result, best: Result) -> str:
    if "problem" in result:
        return str(result["problem"])
    change = speed(result) / speed(best) - 1
    return f"{change:+.0%} tokens a second, {result['memory_gib']:.1f} GiB a rank (here {best['memory_gib']:.1f})"
