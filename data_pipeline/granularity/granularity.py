"""How much of a trace a document holds (``encode.granularity``), and records cut by it.

    full              all of it
    no_prose          all but what connects and repeats: spans of the kind prose
    decisive          the steps on which the answer depends, by value flow (see ``values``)
    until_conclusion  nothing after the answer has been found and said again
    ratio             the given share of the characters: what the answer depends on least goes first
    random_drop       the same share, of steps drawn by the record's id: the control

Only the document is cut; the record keeps its text. A trace that cannot be cut so that the answer stays in it keeps
all of it, for a reason that is counted: ``no_answer`` (the trace never gives it, or goes on to another value),
``no_values`` (nothing that can be followed leads to it), ``empty``, ``loses_answer`` (of a function of the user's).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds, nearest
from tracestill.data_pipeline.base.schema import Record
from tracestill.data_pipeline.base.stage import CONTENTS
from tracestill.data_pipeline.granularity import ways
from tracestill.data_pipeline.granularity.mend import mended
from tracestill.data_pipeline.granularity.phrases import language_of, phrases_of
from tracestill.data_pipeline.granularity.units import Unit, prose_bounds, units_of
from tracestill.data_pipeline.granularity.values import answer_value, concluding, flows_of
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.segmentation.parts import step_ends

FIELD = "encode.granularity"
VERSION = 2  # of what the built-in ways make of a trace: with another one, documents are encoded again
FULL = "full"
BY_ITSELF: dict[str, Callable[[ways.Case], list[bool]]] = {
    "no_prose": ways.no_prose,
    "decisive": ways.decisive,
    "until_conclusion": ways.until_conclusion,
}
BY_SHARE: dict[str, Callable[[ways.Case, float], list[bool]]] = {
    "ratio": ways.by_importance,
    "random_drop": ways.random_drop,
}
Own = Callable[[Record], Sequence[Any]]


class GranularityConfig(BaseModel):
    """The ``encode.granularity`` block; a text alone is its ``keep``."""

    model_config = ConfigDict(extra="forbid", frozen=True, json_schema_extra={"type": ["object", "string"]})

    keep: Name = Field(
        FULL,
        description="full; no_prose: all but spans of prose; decisive: steps on which the answer depends, by value "
        "flow; until_conclusion: nothing after the answer was found; ratio: a share, what matters least goes first; "
        "random_drop: a share drawn by the record's id; or my_pkg.my_module:function of a Record, which returns the "
        "numbers of steps, or (start, end) characters, that stay",
    )
    ratio: float | Literal["no_prose", "decisive", "until_conclusion"] | None = Field(
        None,
        description="with keep: ratio or random_drop, the share of a trace's characters that stays; or as much of each "
        "trace as another way leaves",
    )
    not_cut: Literal["keep", "reject"] = Field(
        "keep", description="a trace that cannot be cut so that the answer stays in it: keep all of it, or reject it"
    )

    @model_validator(mode="before")
    @classmethod
    def _short(cls, given: Any) -> Any:
        return {"keep": given} if isinstance(given, str) else given

    @field_validator("keep")
    @classmethod
    def _found(cls, keep: str) -> str:
        if ":" in keep:
            if not own_modules.is_looking():
                own_function(keep)
        elif keep not in (known := [FULL, *BY_ITSELF, *BY_SHARE]):
            path = "or give an import path such as my_pkg.my_module:keep"
            raise ValueError(f"unknown granularity '{keep}'{nearest(keep, known)}; {path}")
        return keep

    @field_validator("ratio")
    @classmethod
    def _share(cls, ratio: float | str | None) -> float | str | None:
        if isinstance(ratio, float) and not 0 < ratio < 1:
            raise ValueError(f"a share of the trace lies between 0 and 1, got {ratio:g}")
        return ratio

    @model_validator(mode="after")
    def _together(self) -> GranularityConfig:
        if (self.ratio is None) == (self.keep in BY_SHARE):
            needs = f"keep: {self.keep} needs ratio, a share such as 0.5 or a way such as decisive"
            raise ValueError(
                needs if self.ratio is None else f"ratio belongs to keep: ratio or random_drop, not {self.keep}"
            )
        return self

    @property
    def cuts(self) -> bool:
        return self.keep != FULL


class Cut(NamedTuple):
    """What became of one record."""

    record: Record  # with the trace and spans of its document
    outcome: Literal["cut", "whole", "not_cut"]  # whole: there was nothing to cut
    reason: str = ""  # of not_cut
    origin: tuple[int, ...] = ()  # of cut: for each character of the trace, the one that it comes from
    gone: tuple[tuple[int, int], ...] = ()  # of cut: characters [start, end) of the record's trace that went


def own_module(config: GranularityConfig) -> str | None:
    """The module of the user's that ``keep`` names; None for a built-in way."""
    return config.keep.partition(":")[0] if ":" in config.keep else None


def own_function(keep: str) -> Own:
    """The user's function. Raises InputError naming what is missing."""
    module_name, _, name = keep.partition(":")
    found: Own | None = getattr(own_modules.load(module_name), name, None)
    if not callable(found):
        raise InputError(f"{module_name} has no function '{name}'")
    return found


def stage_config(config: GranularityConfig, memory: Path | None = None) -> dict[str, Any]:
    """What, besides the config, decides how traces come out; digests of a module of the user's among it."""
    if not config.cuts:
        return {}
    module = own_module(config)
    found = contents({f"{FIELD}.keep": own_modules.files(module)} if module else {}, memory)
    return {"granularity_version": VERSION, **({CONTENTS: found} if found else {})}


class Granularity:
    """Cuts the traces of records that have their spans, as a recipe says."""

    def __init__(self, config: GranularityConfig, kinds: Kinds) -> None:
        self.config = config
        self.prose = frozenset(kinds.members("prose"))
        self.own = own_function(config.keep) if ":" in config.keep else None

    def __call__(self, record: Record) -> Cut:
        """Raises InputError naming the record if a function of the user's fails, or what it gives is bad."""
        if not self.config.cuts or not record.trace.strip():
            return Cut(record, "whole")
        phrases = phrases_of(language_of(record.trace))
        try:
            units, keep = self.chosen(record)
        except ways.Uncut as uncut:
            return Cut(record, "not_cut", str(uncut))
        if all(keep):
            return Cut(record, "whole")
        if not any(keep):
            return Cut(record, "not_cut", "empty")
        trace, spans, origin = mended(record, units, keep, phrases)
        if self.own and loses_answer(record, units, keep):
            return Cut(record, "not_cut", "loses_answer")
        gone = tuple((unit.start, unit.end) for unit, kept in zip(units, keep, strict=True) if not kept)
        return Cut(replace(record, trace=trace, spans=spans), "cut", origin=origin, gone=gone)

    def chosen(self, record: Record) -> tuple[list[Unit], list[bool]]:
        """The units of a trace, and which stay. Raises Uncut."""
        if self.own is not None:
            return self.by_own(record)
        way, ratio = self.config.keep, self.config.ratio
        if way in BY_ITSELF:
            case = self.case(record, way)
            return case.units, BY_ITSELF[way](case)
        if isinstance(ratio, str):
            other = self.case(record, ratio)
            ratio = ways.share_kept(other, BY_ITSELF[ratio](other))
        case = self.case(record, way)
        assert ratio is not None
        return case.units, BY_SHARE[way](case, ratio)

    def case(self, record: Record, way: str) -> ways.Case:
        within = prose_bounds(record, self.prose) if way == "no_prose" else []
        units = units_of(record, phrases_of(language_of(record.trace)), within)
        return ways.Case(record, units, flows_of(record, units), self.prose)

    def by_own(self, record: Record) -> tuple[list[Unit], list[bool]]:
        """What the user's function keeps, as units."""
        assert self.own is not None
        who = f"{FIELD}: {self.config.keep}"
        try:
            found = list(self.own(record))
        except Exception as error:  # anybody's code
            place = f"{own_modules.place_of(error)}{type(error).__name__}: {error}"
            raise InputError(f"{who} failed on record {record.record_id} ({place})") from error
        steps = list(pairwise([0, *step_ends(record.trace)]))
        ranges = [range_of(each, steps, len(record.trace)) for each in found]
        if None in ranges:
            bad = found[ranges.index(None)]
            expected = f"a step from 0 to {len(steps) - 1}, or (start, end) within {len(record.trace)} characters"
            raise InputError(f"{who} gave {ascii(bad)[:80]} for record {record.record_id}; expected {expected}")
        bounds = {bound for each in ranges if each for bound in each}
        phrases = phrases_of(language_of(record.trace))
        units = units_of(record, phrases, bounds - {0, len(record.trace)}, glue=False)
        return units, [any(each and each[0] <= unit.start and unit.end <= each[1] for each in ranges) for unit in units]


def range_of(given: Any, steps: Sequence[tuple[int, int]], length: int) -> tuple[int, int] | None:
    """The characters that a function of the user's means by a step or a range; None if it means none."""
    if isinstance(given, int) and not isinstance(given, bool):
        return steps[given] if 0 <= given < len(steps) else None
    if isinstance(given, tuple | list) and len(given) == 2 and all(type(bound) is int for bound in given):
        return (given[0], given[1]) if 0 <= given[0] < given[1] <= length else None
    return None


def loses_answer(record: Record, units: Sequence[Unit], keep: Sequence[bool]) -> bool:
    """Whether the answer stood in the trace, and does not in what stays."""
    flows = flows_of(record, units)
    end, value = concluding(record, units, flows), answer_value(record.answer)
    held = (at == end if value is None else value in flow.holds for at, flow in enumerate(flows))
    return end is not None and not any(kept and holds for kept, holds in zip(keep, held, strict=True))
