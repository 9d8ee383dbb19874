"""The order of an epoch by a key: its documents are cut into stages, each packed and balanced by itself.

Inside a stage the order is random, as packs of equal cost have to come together. Of S equal stages the rank correlation
of key and step is 1 - 1/S^2 where keys differ, so a few dozen are as good as a sort. Each stage takes a packing of its
own, whose time grows with the number of different lengths: very many documents get fewer stages, and their lengths are
rounded up to a grid that wastes a thousandth at most.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels.document_scores import DocumentScore, Said
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.plan.mixture import LENGTH
from tracestill.data_pipeline.tokens.columns import Columns

RANDOM = "random"
MOST, LEAST = 32, 8  # stages, where an epoch has so many steps
FEW, PACKS = 4, 12  # stages that short epochs have, too; packs of each beyond: the last of a stage is seldom full
CLASSES = 1 << 16  # stages times different lengths, beyond which there are fewer stages
PLACED = 1 << 13  # the same, beyond which lengths are rounded
WASTE = 400  # a grid is at most the mean length over this: half of it is lost in each document


class OrderConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    by: Name | DocumentScore = Field(
        RANDOM,
        description="random, length (tokens), difficulty (share of the question's samples that are not right), "
        "trace_tokens, or one of the questions' metadata that holds numbers; or a block: what a channel says",
    )
    direction: Literal["ascending", "descending"] = Field(
        "ascending", description="ascending: the short, the easy or the small first"
    )
    mixing: float = Field(
        0.0, ge=0, le=1, description="share of the documents that come anywhere in the epoch, whatever their key"
    )

    def columns(self) -> list[str]:
        return [] if isinstance(self.by, DocumentScore) or self.by in (RANDOM, LENGTH) else [self.by]


def keys_of(
    order: OrderConfig, columns: Columns | None, lengths: np.ndarray, said: Said | None = None
) -> np.ndarray | None:
    """(N,) float64: each document's key, small ones first, NaN where there is none; None for a random order. ``said``:
    what channels say of documents, for an order by one.

    Raises InputError for a column of texts.
    """
    if order.by == RANDOM:
        return None
    if isinstance(order.by, DocumentScore):
        assert said is not None
        keys = said(order.by)
    elif order.by == LENGTH:
        keys = lengths.astype(np.float64)
    else:
        assert columns is not None
        if columns.is_text(order.by):
            raise InputError(f"plan.order.by: '{order.by}' holds texts, and an order needs numbers")
        keys = columns.numbers(order.by)
    return keys if order.direction == "ascending" else -keys


def grid_of(lengths: np.ndarray, packs: int, per_step: int) -> tuple[int, int]:
    """(stages, tokens that lengths are rounded up to a multiple of) for an epoch of about so many packs."""
    different = int(np.count_nonzero(np.bincount(lengths)))
    stages = min(MOST, max(FEW, packs // PACKS), -(-packs // per_step))
    while stages * different > CLASSES and stages >= 2 * LEAST:
        stages //= 2
    return stages, max(1, min(stages * different // PLACED, int(lengths.mean()) // WASTE))


def stages_of(
    keys: np.ndarray,  # (M,) of an epoch's documents
    stages: int,
    mixing: float,
    bits: np.random.Philox,
) -> np.ndarray:
    """(M,) int8: the stage of each document. Equal keys are shuffled; documents without one, and the share ``mixing``
    of all, go to any stage."""
    drawn = bits.random_raw(len(keys))
    known = ~np.isnan(keys)
    # float32's bits, turned so that they sort as numbers do, above random ones: keys that differ by less than float32
    # can tell are shuffled as equal ones are
    held = np.where(known, keys, 0).astype(np.float32).view(np.uint32)
    ordered = np.where(held >> 31, ~held, held | np.uint32(1 << 31)).astype(np.uint64) << np.uint64(32)
    ordered |= drawn >> np.uint64(32)
    placed = np.sort(ordered if known.all() else ordered[known])
    found = np.zeros(len(keys), np.int8)
    for at in range(1, stages) if len(placed) else ():
        found += ordered >= placed[at * len(placed) // stages]
    anywhere = ~known
    if mixing:
        anywhere |= (drawn & np.uint64(0xFFFFFFFF)) < np.uint64(round(mixing * (1 << 32)))
    again = bits.random_raw(int(anywhere.sum())) >> np.uint64(32)
    found[anywhere] = (again * np.uint64(stages) >> np.uint64(32)).astype(np.int8)
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's: the correlation of ranks, equal values sharing the mean of theirs. 0 where all are equal."""
    ranks = []
    for values in (a, b):
        _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((np.cumsum(counts) - (counts - 1) / 2)[inverse])
    if not all(rank.size and np.ptp(rank) for rank in ranks):
        return 0.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def report(
    order: OrderConfig,
    keys: np.ndarray,  # (N,)
    documents: np.ndarray,  # (M,) of the epoch
    steps: np.ndarray,  # (M,) the step of each
) -> dict[str, Any]:
    """How well an epoch follows its key: the rank correlation of key, in the direction asked for, and step."""
    known = ~np.isnan(keys[documents])
    return {
        "by": str(order.by),
        "direction": order.direction,
        "mixing": order.mixing,
        "correlation": rank_correlation(keys[documents][known], steps[known]),
        "without_key": int((~known).sum()),
    }
