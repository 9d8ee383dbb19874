"""What a scorer's channels take and say: bytes foreseen before it starts, and means by kind when it is done. Imports no
torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.errors import NoRoomError
from tracestill.data_pipeline.channels import Channel, ChannelWriter
from tracestill.data_pipeline.channels.shards import Shard, file_of, held, read_shard, sizes_of
from tracestill.data_pipeline.tokens.store import TokenStore

SPARE = 1.02  # Arrow's offsets, names and padding, as a share


def foreseen(store: TokenStore, channels: Sequence[Channel], shards: Sequence[Shard] | None = None) -> int:
    """Bytes that the channels of a store take, or of some shards of it."""
    chosen = [Shard(0, 0, len(store))] if shards is None else shards
    values = sum(int(sizes_of(store, shard, one).sum()) * one.bytes for shard in chosen for one in channels)
    places = sum(4 * (shard.end - shard.first) for shard in chosen) * len(channels)
    return round((values + places) * SPARE)


def check_room(directory: Path, size: int, what: str) -> None:
    """Raises NoRoomError if the disk below ``directory`` has less free than ``size`` bytes."""
    place = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size > free:
        raise NoRoomError(
            f"{directory}: {what} takes {size / 1e9:.3g} GB, {free / 1e9:.3g} GB are free; make room, or lower k, name "
            "fewer kinds, or fewer channels"
        )


def kept_of(store: TokenStore, shard: Shard, channel: Channel, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """Of a channel's values of all of a shard's tokens, those that it holds."""
    whole = values[channel.name]
    if not channel.kinds:
        return whole
    mask = np.concatenate([held(store, document, channel) for document in shard.documents])
    kept: np.ndarray = whole[mask]
    return kept


def counts_of(writer: ChannelWriter) -> dict[str, Any]:
    """Documents, tokens, bytes, steps if a channel is of these, and by kind: its targets, those of which the model said
    something (``known``), and the means of the channels that have one; of the finished shards."""
    store, names = writer.store, writer.store.kind_names
    total = {channel.name: np.zeros((2, len(names))) for channel in writer.channels if has_mean(channel)}
    known = np.zeros(len(names), np.int64)
    size, of_steps = 0, np.zeros(2, np.int64)  # known, and all
    for shard in writer.shards:
        path = file_of(writer.draft, shard)
        read = read_shard(path, store, shard, writer.channels)
        size += path.stat().st_size
        kinds = np.concatenate([store.kinds(document) for document in shard.documents])
        there = np.zeros(len(kinds), bool)
        for channel in writer.channels:
            if channel.per == "step":
                of_steps += [np.isfinite(read[channel.name][1]).sum(), len(read[channel.name][1])]
                continue
            values, own = read[channel.name][1], kinds
            mask = np.ones(len(kinds), bool)
            if channel.kinds:
                mask = np.concatenate([held(store, document, channel) for document in shard.documents])
                own = kinds[mask]
            first = values if channel.width == 1 else values[:, 0]
            said = ~np.isnan(first) if channel.dtype.startswith("float") else first != channel.missing
            there[np.flatnonzero(mask)[said]] = True
            if channel.name in total:
                sums, numbers = total[channel.name], first[said].astype(np.float64)
                sums[0] += np.bincount(own[said], weights=numbers, minlength=len(names))
                sums[1] += np.bincount(own[said], minlength=len(names))
        known += np.bincount(kinds[there], minlength=len(names))
    targets = store.counts.sum(0, dtype=np.int64)
    means = {name: rounded(sums, names) for name, sums in total.items()}
    steps = {"steps": dict(zip(("known", "all"), of_steps.tolist(), strict=True))} if of_steps[1] else {}
    return {
        "documents": len(store),
        "tokens": int(store.lengths.sum(dtype=np.int64)),
        "bytes": size,
        "targets": {name: int(n) for name, n in zip(names, targets, strict=True) if n},
        "known": {name: int(n) for name, n in zip(names, known, strict=True) if n},
        "means": means,
        **steps,
    }


def has_mean(channel: Channel) -> bool:
    return channel.per == "token" and channel.width == 1


def rounded(sums: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {name: round(float(a / n), 4) for name, a, n in zip(names, *sums, strict=True) if n}
