"""Normalisers: the factor c of every target, so that a step's loss means what its recipe says.

    L = sum_i w_i * c_i * nll_i                 w_i = v_k * r_d * t_i    (kind, record, token weight)

    weights    c = 1 / sum_i w_i                the mean over weights
    tokens     c = 1 / #(w_i != 0)              the mean over weighted tokens; doubling every weight doubles L
    spans      c = 1 / (W * S_k)                S_k = sum of r_d * t_i over targets of kind k
                                                W   = sum of v_k over kinds with S_k > 0
    examples   c = 1 / (R * S_d)                S_d = sum of v_k * t_i over document d's targets
                                                R   = sum of r_d over documents with S_d > 0

Sums run over the targets of one optimizer step on all ranks. A normaliser is an entry of ALL: what it sums up,
and what follows from the sums. Imports no torch, so that a recipe is checked at once; sums that ranks have added up on
a device are tensors, and the arithmetic below is that of both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Counted:
    """The targets of D documents, as far as they decide c."""

    amount: np.ndarray  # (D, K) sum of t over the targets of each kind: without token weights, their number
    count: np.ndarray  # (D, K) how many of them have t != 0
    records: np.ndarray  # (D,) r
    table: np.ndarray  # (K,) v

    @property
    def by_document(self) -> np.ndarray:
        """(D,) float64: S_d."""
        return self.amount.astype(np.float64) @ self.table.astype(np.float64)

    @property
    def by_kind(self) -> np.ndarray:
        """(K,) float64: S_k."""
        return self.records.astype(np.float64) @ self.amount.astype(np.float64)

    @property
    def weight(self) -> float:
        """Sum of w in float64."""
        return float(self.records.astype(np.float64) @ self.by_document)

    @property
    def weighted(self) -> int:
        """How many targets have w != 0."""
        return int(((self.count * (self.table != 0)).sum(axis=1) * (self.records != 0)).sum())


def inverse(total: Any) -> Any:
    """1 / total where it is above 0, else 0: of an array or a tensor."""
    above = total > 0
    return above / (total + ~above)


@dataclass(frozen=True)
class Normaliser:
    """One way to make c from what the targets of a step sum up to."""

    name: str  # in a recipe
    about: str  # what the weighted sum is divided by, in words
    sums: Callable[[Counted], Any]  # of some documents: a number or (K,), in float64; adds up over documents
    shared: Callable[[Any, Any], Any] = lambda sums, table: inverse(sums)
    """(sums of the step, (K,) v) -> the part of c that all documents share: a number, or (K,) one a kind."""
    own: Callable[[Counted], np.ndarray] | None = None  # (D,) the part of c that is a document's own; None: 1
    parts: str = ""  # what counts as its weight says, however many tokens it has; "": tokens

    def factors(self, of: Counted) -> np.ndarray:
        """(D, K) float64: c of a step that holds just these documents, by document and kind."""
        shared = self.shared(np.asarray(self.sums(of), dtype=np.float64), of.table.astype(np.float64))
        return np.broadcast_to(shared, of.table.shape) * self.own_factors(of)[:, None]

    def own_factors(self, of: Counted) -> np.ndarray:
        """(D,) float64."""
        return np.ones(len(of.records)) if self.own is None else self.own(of)


ALL = (
    Normaliser("weights", "the sum of weights", lambda of: of.weight),
    Normaliser("tokens", "the number of weighted tokens", lambda of: of.weighted),
    Normaliser(
        "spans",
        "what makes kinds count as their weights say, however many tokens they have",
        sums=lambda of: of.by_kind,
        shared=lambda sums, table: inverse(sums * ((sums > 0) * table).sum()),
        parts="kinds",
    ),
    Normaliser(
        "examples",
        "what makes documents count as their records' weights say, however long they are",
        sums=lambda of: of.records[of.by_document > 0].astype(np.float64).sum(),
        own=lambda of: inverse(of.by_document),
        parts="documents",
    ),
)
NORMALISERS = {normaliser.name: normaliser for normaliser in ALL}
