"""Mixtures: which documents an epoch holds, and how often, so that parts of the data have the shares a recipe asks for.

A part is a condition on what is known of documents. Each takes a whole number of passes over its documents, and of one
more pass a stretch: its documents stand in one order, which the seed draws, and every epoch goes on in it where the one
before has ended. So none is repeated while another of its part is left out, and over epochs all come equally often.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.plan.order import shuffled
from tracestill.data_pipeline.tokens.columns import Columns

REST = "rest"
LENGTH = "length"
MOST = (1 << 31) - 1  # documents in an epoch, repeats included

Scalar = str | bool | int | float


class Range(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    min: float | None = Field(None, description="the least, itself included")
    max: float | None = Field(None, description="the most, itself included")

    @model_validator(mode="after")
    def _holds_something(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}")
        return self


class PartConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(ge=0, allow_inf_nan=False, description="of the mixture, as a part of all shares; 0: left out")
    where: dict[Name, Range | tuple[Scalar, ...] | Scalar] = Field(
        {},
        description="column -> a value, a list of values, or {min, max}: length (tokens), trace_tokens, teacher, "
        "style, source, group, difficulty (share of the question's samples that are not right), or one of the "
        "questions' metadata; all must hold",
    )


class MixtureConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    parts: dict[Name, PartConfig] = Field(
        min_length=1,
        description="parts by name; a document belongs to the first that it matches. `rest`, without `where`: what no "
        "other part matches",
    )
    by: Literal["tokens", "documents"] = Field("tokens", description="what shares are of")
    when_short: Literal["repeat", "shrink"] = Field(
        "repeat",
        description="of a part with too few documents: repeat them, or take fewer of the others",
    )
    size: int | None = Field(
        None, ge=1, description="tokens or documents in an epoch; null: as many as the parts hold, or shrink leaves"
    )

    @model_validator(mode="after")
    def _parts(self) -> MixtureConfig:
        for name, part in self.parts.items():
            if name == REST and part.where:
                raise ValueError(f"parts.{REST}: is what no other part matches, and has no `where`")
            if name != REST and not part.where:
                raise ValueError(f"parts.{name}: needs `where`; what no part matches is called {REST}")
        if not any(part.share for part in self.parts.values()):
            raise ValueError("parts: one share at least must be above 0")
        return self

    def columns(self) -> list[str]:
        """Names of the columns that conditions look at, but for lengths."""
        named = [name for part in self.parts.values() for name in part.where]
        return [name for name in dict.fromkeys(named) if name != LENGTH]


@dataclass(frozen=True)
class Mixer:
    """Documents by part, and how much of each an epoch holds.

    of_document  (N,) int64: the part of each document
    orders       one for each part: its documents in the order in which epochs take them
    ends         tokens, or documents, of each of these and all before it
    wanted       one for each part: tokens or documents of an epoch
    """

    config: MixtureConfig
    of_document: np.ndarray
    orders: list[np.ndarray]
    ends: list[np.ndarray]
    wanted: list[int]

    def copies(self, epoch: int) -> np.ndarray:
        """(N,) int32: how often each document comes in an epoch. Of every part the sum of sizes differs from what is
        wanted by less than one document. Raises InputError if there is none at all."""
        found = np.zeros(len(self.of_document), np.int32)
        for documents, ends, wanted in zip(self.orders, self.ends, self.wanted, strict=True):
            if not wanted:
                continue
            total = int(ends[-1])
            passes, more = divmod(wanted, total)
            found[documents] = passes
            begin = epoch * more % total
            # those that begin in [begin, begin + more) of the row, which goes on from its end to its beginning
            bounds = np.array([begin, begin + more, begin + more - total])
            at, end, again = np.where(bounds > 0, np.searchsorted(ends, bounds) + 1, 0)
            found[documents[at:end]] += 1
            if begin + more > total:
                found[documents[:again]] += 1
        if not found.any():
            raise InputError(
                f"plan.mixture: epoch {epoch} holds no document, as its {sum(self.wanted):,} tokens are fewer than one "
                "has; raise size"
            )
        return found

    def report(self, documents: np.ndarray, lengths: np.ndarray) -> dict[str, dict[str, Any]]:
        """Part -> what an epoch that holds ``documents`` (M,) has of it, counted anew."""
        times = np.bincount(documents, minlength=len(lengths))
        shares = [part.share for part in self.config.parts.values()]
        sizes = lengths.astype(np.int64) if self.config.by == "tokens" else np.ones(len(lengths), np.int64)
        amounts = [int(times[self.of_document == at] @ sizes[self.of_document == at]) for at in range(len(shares))]
        found = {}
        for at, name in enumerate(self.config.parts):
            mine = self.of_document == at
            own = times[mine]
            found[name] = {
                "share_wanted": shares[at] / sum(shares),
                "share": amounts[at] / sum(amounts),
                "available": int(mine.sum()),
                "documents": int(own.sum()),
                "tokens": int(own @ lengths[mine].astype(np.int64)),
                "repeats": int(np.maximum(own - 1, 0).sum()),
                "left_out": int((own == 0).sum()),
            }
        return found


def make_mixer(
    config: MixtureConfig,
    columns: Columns | None,
    lengths: np.ndarray,  # (N,)
    seed: int,
    kept: np.ndarray | None = None,  # (N,) bool: documents that it may hold; None: all
) -> Mixer:
    """Raises InputError if documents match no part, a part with a share has none, or ``size`` is beyond all measure."""
    of_document = parts_of(config, columns, lengths)
    names = list(config.parts)
    if (lost := int((of_document < 0).sum())) > 0:
        first = int(np.argmin(of_document))
        who = f", such as {columns.ids[first]}" if columns is not None else f", such as document {first}"
        raise InputError(
            f"plan.mixture.parts: {lost:,} of {len(lengths):,} documents match no part{who}; add a part `{REST}` "
            "(with share: 0 it is left out)"
        )
    if kept is not None:
        of_document[~kept] = -1
    orders, ends = [], []
    for at, name in enumerate(names):
        own = np.flatnonzero(of_document == at)
        if not len(own) and config.parts[name].share:
            raise InputError(f"plan.mixture.parts.{name}: no document matches it; change `where`, or set share to 0")
        bits = np.random.Philox(key=np.array([seed, (1 << 64) - 1 - at], dtype=np.uint64))  # no epoch is so late
        orders.append(own[shuffled(bits, len(own)).view(np.int64)] if len(own) else own)
        ends.append(
            np.cumsum(lengths[orders[-1]], dtype=np.int64) if config.by == "tokens" else np.arange(len(own)) + 1
        )
    held = [int(each[-1]) if len(each) else 0 for each in ends]
    wanted = amounts(config, held)
    documents = sum(len(own) * part // all_of for own, part, all_of in zip(orders, wanted, held, strict=True) if part)
    if documents > MOST:
        raise InputError(
            f"plan.mixture: an epoch would hold about {documents:,} documents, and {MOST:,} are the most; lower size"
        )
    return Mixer(config, of_document, orders, ends, wanted)


def amounts(config: MixtureConfig, held: list[int]) -> list[int]:
    """How much of each part an epoch holds, of what there is; the sums of both are equal, but for rounding down."""
    total = sum(part.share for part in config.parts.values())
    shares = [part.share / total for part in config.parts.values()]
    size = config.size or sum(own for own, share in zip(held, shares, strict=True) if share)
    if config.when_short == "shrink":
        size = min([size, *(int(own / share) for own, share in zip(held, shares, strict=True) if share)])
    wanted = [int(size * share) for share in shares]
    short = sorted(range(len(shares)), key=lambda at: wanted[at] - size * shares[at])  # largest remainder first
    for at in short[: size - sum(wanted)]:
        wanted[at] += 1
    if config.when_short == "shrink":
        wanted = [min(pair) for pair in zip(wanted, held, strict=True)]
    if not sum(wanted):
        raise InputError("plan.mixture: shares leave no document of this data; use when_short: repeat")
    return wanted


def parts_of(config: MixtureConfig, columns: Columns | None, lengths: np.ndarray) -> np.ndarray:
    """(N,) int64: the first part that each document matches, -1 for none."""
    found = np.full(len(lengths), -1)
    for at, (name, part) in enumerate(config.parts.items()):
        if name == REST:
            continue
        mine = found < 0
        for column, condition in part.where.items():
            mine &= matches(column, condition, columns, lengths, f"plan.mixture.parts.{name}.where.{column}")
        found[mine] = at
    if REST in config.parts:
        found[found < 0] = list(config.parts).index(REST)
    return found


def matches(column: str, condition: Any, columns: Columns | None, lengths: np.ndarray, field: str) -> np.ndarray:
    """(N,) bool. Raises InputError for a value that a text column never has, or a range of texts."""
    values = condition if isinstance(condition, tuple | Range) else (condition,)
    if column == LENGTH:
        numbers = lengths
    else:
        assert columns is not None
        if columns.is_text(column):
            if isinstance(values, Range):
                raise InputError(f"{field}: holds texts, and has no range; give a value or a list of them")
            codes, known = columns.texts(column)
            texts = [str(value) for value in values]
            if unknown := [text for text in texts if text not in known]:
                near = nearest(unknown[0], sorted(text for text in known if text)[:20])
                raise InputError(f"{field}: no document has {unknown[0]!r}{near}")
            wanted = np.zeros(len(known) + 1, bool)  # the last is that of documents that have no value
            wanted[[known.index(text) for text in texts]] = True
            return wanted[codes]
        numbers = columns.numbers(column)
    if isinstance(values, Range):
        found = np.ones(len(lengths), bool)
        with np.errstate(invalid="ignore"):
            if values.min is not None:
                found &= numbers >= values.min
            if values.max is not None:
                found &= numbers <= values.max
        return found & ~np.isnan(numbers) if numbers.dtype.kind == "f" else found
    if bad := [value for value in values if isinstance(value, str)]:
        raise InputError(f"{field}: holds numbers, got {bad[0]!r}")
    return np.isin(numbers, np.array(values, np.float64))
