"""Shards on all ranks: which of them are missing, and the channels of one's tokens, pack by pack."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.channels import Channel, ChannelWriter
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.loss import TokenScores
from tracestill.trainer.losses.rows import rows_of
from tracestill.trainer.ranks.collectives import each, share_json
from tracestill.trainer.scoring.reading import Pack, Source

LARGEST = float(np.finfo(np.float16).max)


def shared_writer(
    complaint: str,
    leads: bool,
    directory: Path,
    store: TokenStore,
    channels: Sequence[Channel],
    config: Mapping[str, Any],
    inputs: Mapping[str, Path],
) -> tuple[ChannelWriter, list[int]]:
    """A writer on each rank, and the numbers of the shards that are missing; the rank that ``leads``, 0, begins the
    directory. Raises InputError on all ranks if one cannot."""
    about = directory, store, channels, config, inputs

    def begin() -> tuple[ChannelWriter | None, list[int]]:
        if not leads:
            return None, []
        begun = ChannelWriter(*about)
        return begun, [shard.number for shard in begun.missing()]

    first, mine = each(begin, complaint)
    missing: list[int] = share_json(mine)
    return each(lambda: first or ChannelWriter(*about, begin=False), complaint), missing


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
