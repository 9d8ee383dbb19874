"""Normalisers: the factor c of every target, so that a step's loss means what its recipe says.

    L = sum_i w_i * c_i * nll_i                 w_i = v_k * r_d * t_i    (kind, record, token weight)

    weights    c = 1 / sum_i w_i                the mean over weights
    tokens     c = 1 / #(w_i != 0)              the mean over weighted tokens; doubling every weight doubles L
    spans      c = 1 / (W * S_k)                S_k = sum of r_d * t_i over targets of kind k
                                                W   = sum of v_k over kinds with S_k > 0
    examples   c = 1 / (R * S_d)                S_d = sum of v_k * t_i over document d's targets
                                                R   = sum of r_d over documents with S_d > 0

Sums run over the targets of one optimizer step on all ranks. Without token weights (t = 1) they follow from the
counts of kinds in the store, so every rank knows c before the step. With them, each rank sums over its own
documents, and one all-reduce of ``sums`` completes c on the device.
"""

from __future__ import annotations

import numpy as np
import torch


def sums(
    normaliser: str,
    amount: np.ndarray,  # (D, K) sum of t over the targets of each kind: without token weights, their number
    count: np.ndarray,  # (D, K) how many of them have t != 0
    records: np.ndarray,  # (D,) r
    table: np.ndarray,  # (K,) v
) -> np.ndarray:
    """What c needs of some documents, (1,) or for ``spans`` (K,), float64; adds up over documents."""
    amount, records, table = amount.astype(np.float64), records.astype(np.float64), table.astype(np.float64)
    if normaliser == "weights":
        found = records @ (amount @ table)
    elif normaliser == "tokens":
        found = ((count * (table != 0)).sum(axis=1) * (records != 0)).sum()
    elif normaliser == "spans":
        found = records @ amount
    elif normaliser == "examples":
        found = records[amount @ table > 0].sum()
    else:
        raise ValueError(f"unknown normaliser '{normaliser}'; known: weights, tokens, spans, examples")
    return np.atleast_1d(np.asarray(found, dtype=np.float64))


def factor(
    normaliser: str,
    total: torch.Tensor,  # (1,) or (K,) float64: ``sums`` over all documents of the step
    table: np.ndarray,  # (K,) v
) -> torch.Tensor:
    """The part of c that all documents share, float64: a scalar, or for ``spans`` (K,). 0 where nothing has weight."""
    if normaliser == "spans":
        weights = torch.as_tensor(table, dtype=torch.float64).to(total.device, non_blocking=True)
        total = total * torch.where(total > 0, weights, 0.0).sum()
    shared = torch.where(total > 0, 1.0 / total, 0.0)
    return shared if normaliser == "spans" else shared[0]


def own_factors(
    normaliser: str,
    amount: np.ndarray,  # (D, K)
    table: np.ndarray,  # (K,)
) -> np.ndarray:
    """(D,) float64: the part of c that is a document's own, 1 / S_d for ``examples``, else 1."""
    if normaliser != "examples":
        return np.ones(len(amount))
    own = amount.astype(np.float64) @ table.astype(np.float64)
    return np.divide(1.0, own, out=np.zeros_like(own), where=own > 0)


def weight_sum(
    amount: np.ndarray,  # (D, K) as in ``sums``, of the documents of one step, on all ranks
    records: np.ndarray,  # (D,)
    table: np.ndarray,  # (K,)
) -> float:
    """Sum of w over all targets of the step, in float64; 0.0 for a step without any weight."""
    return float(sums("weights", amount, amount, records, table)[0])
