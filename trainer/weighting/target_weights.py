"""The weights of a step's targets, w * c: made here, for batches, the preview, `inspect` and forecasts.

    w_i = v_k * r_d * t_i                 weight of the kind, the record, the token
    c_i = own_d * shared, or shared_k     see ``weighting.normaliser``

A rank knows v, r, t and ``own`` of its documents when it packs them, and the packing kernel multiplies them by position
(``PackedBatch.loss_weight``). What all documents share may come from other ranks while rows are packed; it goes to the
loss as its ``scale``, where it is multiplied on, and what the log says of weights is summed up there, with it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels.named import OfDocument, split
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.weighting.base import Document, Weighting, table_at, tokens_at
from tracestill.trainer.weighting.normaliser import NORMALISERS, Counted


@dataclass(frozen=True)
class PackWeights:
    """Weights of a pack of D documents of n tokens, as ``batches.row_of`` takes them."""

    counted: Counted  # its targets
    by_document: np.ndarray  # (D,) float64: r * own
    by_token: np.ndarray | None  # (n,) float32 t; None: 1

    def of_labels(self, kinds: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Each token of the pack as a label: (n,) float32, what of w * c is its own, and (n,) bool, whether no factor
        of it is 0; as ``kernels.pack`` has them. ``kinds`` (n,), ``offsets`` (D + 1,)."""
        records = np.repeat(self.by_document.astype(np.float32), np.diff(offsets))
        factors = [self.counted.table.astype(np.float32)[kinds], records]
        factors += [] if self.by_token is None else [self.by_token]
        return np.prod(factors, axis=0, dtype=np.float32), np.all(factors, axis=0)


class TargetWeights:
    """What the targets of a token store weigh, by a weighting and a normaliser."""

    def __init__(self, store: TokenStore, weighting: Weighting, normaliser: str = "weights") -> None:
        self.store, self.weighting = store, weighting
        self.normaliser = NORMALISERS[normaliser]

    @property
    def by_token(self) -> bool:
        """Whether tokens have weights of their own, which only the rank that reads a document knows."""
        return self.weighting.tokens is not None

    def table(self, step: int) -> np.ndarray:
        """(K,) float32: v. Raises InputError if the weighting says none."""
        return table_at(self.weighting, step, len(self.store.kind_names))

    def document(self, index: int) -> Document:
        """What a weighting may look at."""
        store, known = self.store, OfDocument(self.weighting.scores, index)
        return Document(index, store.tokens(index), store.kinds(index), store.steps(index), known)

    def tokens(self, document: int, step: int) -> np.ndarray:
        """(n,) float32: t. Raises InputError if the weighting says none."""
        return tokens_at(self.weighting, self.document(document), step)

    def beside(self, documents: np.ndarray, step: int) -> np.ndarray | None:
        """(n,) float32: what ``dynamic`` gets of each of a pack's tokens as its fourth argument; None: nothing from
        here. Raises InputError as ``reference_nll``."""
        if self.weighting.given is None:
            return self.reference_nll(documents)
        given = [self.weighting.given(self.document(document), step) for document in documents.tolist()]
        return np.concatenate([np.zeros(0, np.float32), *given])

    def reference_nll(self, documents: np.ndarray) -> np.ndarray | None:
        """(n,) float32 stored nll of a pack's tokens, 0 of those that are no targets; None if the weighting reads none.

        Raises InputError naming a target of which nothing is known.
        """
        name = self.weighting.reference_channel
        if name is None:
            return None
        found = [np.zeros(0, np.float32)]
        for document in documents.tolist():
            nll = OfDocument(self.weighting.scores, document)[name].astype(np.float32)
            unknown = np.isnan(nll)
            lost = np.flatnonzero(unknown[1:] & (self.store.kinds(document)[1:] != 0))
            if len(lost):
                where = self.weighting.scores[split(name)[0]].directory
                raise InputError(f"{where}: '{name}' says nothing of token {lost[0] + 1} of document {document}")
            found.append(np.where(unknown, 0, np.maximum(nll, 0)))
        return np.concatenate(found)

    def of_document(self, document: int, step: int, table: np.ndarray | None = None) -> np.ndarray:
        """(n,) float32: w of each token, 0 of the first, which is never predicted. ``table``: if it is known."""
        table = self.table(step) if table is None else table
        weights = table[self.store.kinds(document)] * self.store.weights[document]
        if self.by_token:
            weights *= self.tokens(document, step)
        weights[0] = 0.0
        return weights

    def of_pack(self, documents: np.ndarray, step: int, table: np.ndarray | None = None) -> PackWeights:
        """What documents (D,) weigh at a step. ``table``: another one than the weighting's."""
        table = self.table(step) if table is None else table
        amount = count = self.store.counts[documents]
        by_token = None
        if self.by_token:
            weights = [self.tokens(int(document), step) for document in documents]
            amount, count = (np.zeros((len(documents), len(table))) for _ in range(2))
            for at, (document, weight) in enumerate(zip(documents.tolist(), weights, strict=True)):
                kinds = self.store.kinds(document)[1:]
                amount[at] = np.bincount(kinds, weights=weight[1:], minlength=len(table))
                count[at] = np.bincount(kinds, weights=weight[1:] != 0, minlength=len(table))
            by_token = np.concatenate([np.zeros(0, np.float32), *weights])
        counted = Counted(amount, count, self.store.weights[documents], table)
        own = self.normaliser.own_factors(counted)
        return PackWeights(counted, counted.records * own, by_token)

    def sums(self, pack: PackWeights) -> np.ndarray:
        """(1,) or (K,) float64: what c needs of a pack; adds up over packs and ranks."""
        return np.atleast_1d(np.asarray(self.normaliser.sums(pack.counted), dtype=np.float64))

    def shared(self, sums: Any, table: Any) -> Any:
        """The part of c that the step's targets share: (1,) or (K,), of ``sums`` over all of them and (K,) v; arrays,
        or tensors on a device."""
        return self.normaliser.shared(sums, table)

    def of_step(
        self, documents: np.ndarray, step: int, table: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(K,) sum of w, and (K,) sum of w * c, of each kind's targets in a step of documents (D,); float64."""
        counted = self.of_pack(documents, step, table).counted
        w = counted.amount * counted.table.astype(np.float64) * counted.records.astype(np.float64)[:, None]  # (D, K)
        return w.sum(axis=0), (w * self.normaliser.factors(counted)).sum(axis=0)
