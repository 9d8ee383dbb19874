"""Built-in weightings that read stored channels: ``by_channel``, and with other defaults ``known``, ``critical`` and
``teacher_confidence``. What a model said of every token stands on disk; no second model is in memory.

    w_i = weights[kind_i] * f(x_i)      for targets i of ``kinds`` of which the channel says x_i; else weights[kind_i]

    how: hard          f = 1 on the kept side of ``threshold``, or of the quantile that keeps ``share``, else
                           ``otherwise``
    how: rank          f = share of the targets that x_i exceeds (keep: above), or that exceed x_i (below); its mean
                           is 1/2
    how: proportional  f = max(x_i, 0) / its mean
    how: probability   f = exp(-|x_i|): of nll and top1 a probability, of entropy one over the choices it comes to

Each of ``kinds`` is one pool, of all targets whose most specific name it is: quantile, rank and mean are those of the
pool over the whole store. Of targets whose value is the quantile itself as many are kept as are missing, drawn by the
hash that ``random_drop`` uses; the same ones in every epoch. These factors are weights: they enter c.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import ROOT, Kinds
from tracestill.data_pipeline.channels.channel import BUILT_IN
from tracestill.data_pipeline.channels.histogram import KNOWN, VALUES, Histogram, codes_of, edge_of, histogram
from tracestill.data_pipeline.channels.named import by_token, split
from tracestill.trainer.weighting.base import Document
from tracestill.trainer.weighting.by_kind import SpanWeighting
from tracestill.trainer.weighting.by_token import uniform
from tracestill.trainer.weighting.channel_options import (
    ByChannelOptions,
    CriticalOptions,
    KnownOptions,
    TeacherConfidenceOptions,
)
from tracestill.trainer.weighting.weighting import WeightingConfig

TIES, SHUFFLE = -1, -2  # in the place of a step: what is drawn once for all steps
LARGEST = 65504.0  # the largest finite float16


class ByChannel(SpanWeighting):
    """Weights by what a model said of each token: the base of those with other defaults.

        w_i = weights[kind_i] * f(x_i)

    f as at the head of this file. Selecting single tokens of a trace is hard to do better than ``random_drop`` does
    (arXiv 2605.07660, 2607.28707): compare with ``control``, and with ``span``.
    """

    Options: ClassVar[type[BaseModel]] = ByChannelOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        super().__init__(config, kinds, seed)
        options = self.options
        self.channel = BUILT_IN[split(options.channel)[1]]
        self.in_trace = kinds.mask([ROOT])
        self.pools = kinds.decided(options.kinds)  # name -> ids of its kinds
        outside = [kinds.names[k] for ids in self.pools.values() for k in ids if not self.in_trace[k]]
        if self.channel.per == "step" and outside:
            raise ValueError(f"options.kinds: {options.channel} is known of the trace's steps, not of '{outside[0]}'")
        self.counted = [k for ids in self.pools.values() for k in ids]  # one row each
        self.row_of_kind = np.full(len(kinds), -1)
        self.row_of_kind[self.counted] = np.arange(len(self.counted))
        self.pool_of_row = np.repeat(np.arange(len(self.pools)), [len(ids) for ids in self.pools.values()])
        self._table: tuple[Any, np.ndarray] | None = None
        self._by_kind: np.ndarray | None = None  # of that table

    @classmethod
    def reads(cls, options: Any) -> tuple[str, ...]:
        return (options.channel,)

    def named(self) -> list[str]:
        return [*self.options.kinds, *self.weights]

    @cached_property
    def histogram(self) -> Histogram:
        """Targets of the whole store by kind and value. Raises InputError if the channel is not there."""
        return histogram(self.scores, self.options.channel, self.row_of_kind, self.in_trace)

    def of_pool(self, pool: int) -> np.ndarray:
        """(65536,) int64: known targets of a pool by their value."""
        return self.histogram.counts[self.pool_of_row == pool].sum(axis=0)

    def table(self, step: int) -> np.ndarray:
        """(P, 65536) float32: f of each pool by value; of ``hard`` the probability that a target is kept."""
        how, options = self.options.how, self.options
        field = None if how != "hard" else "share" if options.share is not None else "threshold"
        key = [options.number(field, name, step) for name in self.pools] if field else []
        if self._table is None or self._table[0] != key:
            self._table = key, np.stack([self.row(pool, field, key) for pool in range(len(self.pools))])
            self._by_kind = None
        return self._table[1]

    def row(self, pool: int, field: str | None, numbers: list[float]) -> np.ndarray:
        """(65536,) float32: f of one pool by value. Raises InputError if nothing is above 0, of ``proportional``."""
        above, values = self.options.keep == "above", np.where(KNOWN, np.clip(VALUES, -LARGEST, LARGEST), 0)
        if field == "threshold":
            return ((numbers[pool] < VALUES) if above else (numbers[pool] > VALUES)).astype(np.float32)
        if field == "share":
            return edge_of(self.of_pool(pool), numbers[pool], above=above)
        if self.options.how == "probability":
            return np.exp(-np.abs(values)).astype(np.float32)
        counts = self.of_pool(pool)
        total = max(int(counts.sum()), 1)
        if self.options.how == "rank":
            rank = (np.cumsum(counts) - counts / 2) / total
            return (rank if above else 1 - rank).astype(np.float32)
        positive = np.maximum(values, 0).astype(np.float64)
        mean = float(counts @ positive) / total
        if counts.any() and not mean:
            raise InputError(f"{self.options.channel}: nothing of '{[*self.pools][pool]}' is above 0: no proportions")
        return (positive / max(mean, 1e-300)).astype(np.float32)

    def by_kind(self, step: int) -> np.ndarray:
        """(R,) float64: mean of f over the known targets of each kind: of ``hard`` the share that is kept."""
        table, counts = self.table(step), self.histogram.counts
        if self._by_kind is None:
            sums = np.array([row @ table[pool] for row, pool in zip(counts, self.pool_of_row, strict=True)])
            self._by_kind = sums / np.maximum(self.histogram.known, 1)
        return self._by_kind

    def tokens(self, document: Document, step: int) -> np.ndarray:
        options, row = self.options, self.row_of_kind[document.kinds]
        values = by_token(
            document.channels[options.channel], self.channel, document.steps, self.in_trace[document.kinds]
        )
        acted = (row >= 0) & ~np.isnan(values)
        acted[:1] = False  # never predicted
        acted_at = np.flatnonzero(acted)
        row = row[acted_at]
        if options.control == "store":
            found = self.by_kind(step)[row]
        else:
            found = self.table(step)[self.pool_of_row[row], codes_of(values[acted_at])]
        if options.how == "hard":
            found = (self.drawn(document, TIES)[acted_at] < found).astype(np.float64)
            found = options.otherwise + (1 - options.otherwise) * found
        if options.control == "document":
            mixed = np.lexsort((self.drawn(document, SHUFFLE)[acted_at], row))
            ordered, found = found[np.argsort(row, kind="stable")], np.empty_like(found)
            found[mixed] = ordered
        factors = np.ones(len(document.tokens), np.float32)
        factors[acted_at] = found
        return factors

    def drawn(self, document: Document, what: int) -> np.ndarray:
        """(n,) uniform in [0, 1); what is known of steps is drawn by step, so that none is kept in part."""
        if self.channel.per == "token" or what == SHUFFLE:
            return uniform(self.seed, document.index, what, len(document.tokens))
        return uniform(self.seed, document.index, what, int(document.steps.max(initial=0)) + 1)[document.steps]

    def effects(self) -> list[str]:
        shares, known, lines = self.by_kind(0), self.histogram.known, []
        percent, names = self.options.how == "hard", self.span_kinds.names
        for pool, (name, _) in enumerate(self.pools.items()):
            rows = np.flatnonzero((self.pool_of_row == pool) & (known > 0))
            whole = float(shares[rows] @ known[rows]) / max(int(known[rows].sum()), 1)
            said = (
                f"{whole:.1%} of" if percent else f"mean factor {whole:.3g} over"
            ) + f" {known[rows].sum():,} targets"
            kinds = ", ".join(
                f"{names[self.counted[r]]} {f'{shares[r]:.1%}' if percent else f'{shares[r]:.3g}'} of {known[r]:,}"
                for r in rows
            )
            lines.append(f"{self.options.channel}, {self.said(name, pool)}: {said} ({kinds})")
        if unknown := int(self.histogram.unknown.sum()):
            lines.append(f"{self.options.channel} says nothing of {unknown:,} targets, which keep their weight")
        return lines

    def said(self, name: str, pool: int) -> str:
        """What is asked of a pool, in words."""
        options = self.options
        if options.how != "hard":
            what = f"'{name}' by {options.how}" + (f", {options.keep}" if options.how == "rank" else "")
        elif options.share is not None:
            side = "largest" if options.keep == "above" else "smallest"
            what = f"'{name}', the {options.number('share', name, 0):.1%} with the {side} values"
        else:
            what = f"'{name}' {options.keep} {options.number('threshold', name, 0):g}"
        random = {"off": "", "store": "as many at random", "document": "as many of each document at random"}
        return what + (f", {random[options.control]}" if options.control != "off" else "")


class Known(ByChannel):
    """Tokens that the student predicted before training are left out.

        w_i = weights[kind_i] * (1 if nll_i > threshold else otherwise)

    with the nll of the student before training; threshold 0.1 nats, a probability of 0.905, unless a ``threshold`` or
    ``share`` is given. ``excess_loss`` asks the same of the student as it is.
    """

    Options: ClassVar[type[BaseModel]] = KnownOptions


class Critical(ByChannel):
    """Steps count on which the answer hangs, as a model measures it.

        w_i = weights[kind_i] * (1 if influence of i's step > threshold else otherwise)

    threshold 0 unless a ``threshold``, a ``share`` or another ``how`` is given: a step counts if the answer is less
    likely without it. A share is one of the trace's tokens, in whole steps.
    """

    Options: ClassVar[type[BaseModel]] = CriticalOptions


class TeacherConfidence(ByChannel):
    """Tokens of which the teacher was sure count more.

        w_i = weights[kind_i] * exp(-|x_i|)

    x: log-probability of the teacher's most probable token (``top1``), nll of the token that it wrote, or entropy; with
    ``how: hard`` those beyond a ``share`` or ``threshold``, on the side where the teacher is sure.
    """

    Options: ClassVar[type[BaseModel]] = TeacherConfidenceOptions
