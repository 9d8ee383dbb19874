"""The channels of a shard's tokens, pack by pack."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tracestill.data_pipeline.channels import Channel
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.loss import TokenScores
from tracestill.trainer.losses.rows import rows_of
from tracestill.trainer.scoring.reading import Pack, Source

LARGEST = float(np.finfo(np.float16).max)


def read_shard(
    source: Source,
    store: TokenStore,
    documents: range,
    channels: Sequence[Channel],
    capacity: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """Channel -> its values of the documents' tokens in the store's order, as a shard holds them before some are left
    out. ``channels`` have values by token. ``tick`` is told the tokens of each pack that is done. How documents are
    packed follows from them alone. Raises as ``Source.read``."""
    lengths = store.lengths[documents.start : documents.stop].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    found = {channel.name: channel.blank(int(first[-1])) for channel in channels}
    names = set(found)
    k = next((channel.width for channel in channels if channel.name == "topk_ids"), 0)
    wanted: Any = {"entropy": "entropy" in names, "rank": "rank" in names, "k": k}
    table = looked_at(channels, store.kind_names)
    order = documents.start + np.argsort(lengths, kind="stable")  # those of like length together
    for row in rows_of(store.lengths, capacity, order=order.tolist()):
        tokens, kinds, offsets, _ = store.gather(row)
        pack = Pack([store.ids[document] for document in row], tokens, kinds, offsets, table)
        seen, targets = source.read(pack, **wanted), pack.targets()
        starts = first[row - documents.start] - offsets[:-1]  # of each document in the shard, less that in the pack
        places = targets + np.repeat(starts, np.diff(offsets))[targets]
        for channel in channels:
            found[channel.name][places] = values_of(channel, seen)
        tick(len(tokens))
    return found


def looked_at(channels: Sequence[Channel], names: Sequence[str]) -> np.ndarray:
    """(K,) float32: 1 for the kinds of which some channel holds targets; ``pad`` is never predicted."""
    table = np.zeros(len(names), np.float32)
    for channel in channels:
        table[np.isin(names, channel.kinds or names)] = 1.0
    table[0] = 0.0
    return table


def values_of(channel: Channel, seen: TokenScores) -> np.ndarray:
    """(M,) or (M, width) of a channel, in its type."""
    of = {"topk_ids": "ids", "topk_logprobs": "log_probs"}.get(channel.name, channel.name)
    values = getattr(seen, of).cpu().numpy()
    if channel.dtype == "float16":
        values = np.clip(values, -LARGEST, LARGEST, where=np.isfinite(values), out=values.copy())
    if channel.dtype == "uint32":
        values = np.where(values < 0, channel.missing, values)
    found: np.ndarray = values.astype(channel.dtype)
    return found
