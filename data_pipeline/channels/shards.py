"""A shard: the channels of some documents that follow each other in a token store, in one Arrow IPC file.

Which documents a shard holds follows from the store's lengths alone, so any number of processes writes the same shards,
each whole or not at all. The value buffers are flat: a document's values are a view into the page cache.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import sync
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.tokens.store import BROKEN, TokenStore, numbers

FORMAT = "tracestill channels 1"
SHARDS = 64  # of a store that is large enough: a crash loses no more than one on each rank, and all ranks have work
LEAST, MOST = 1 << 13, 1 << 20  # tokens of a shard
ANEW = "delete it and run `tracestill score`, which writes what is missing"


class Shard(NamedTuple):
    """Documents first .. end - 1 of a store."""

    number: int
    first: int
    end: int

    @property
    def documents(self) -> range:
        return range(self.first, self.end)


def shard_tokens_of(lengths: np.ndarray) -> int:
    """About how many tokens each shard of a store has."""
    return min(max(int(lengths.sum(dtype=np.int64)) // SHARDS, LEAST), MOST)


def shards_of(lengths: np.ndarray, tokens: int) -> list[Shard]:
    """The shards of a store: each ends with the document that reaches the next multiple of ``tokens``."""
    done = np.cumsum(lengths, dtype=np.int64) // tokens
    ends = np.flatnonzero(np.diff(done, prepend=0)) + 1
    if len(lengths) and (not len(ends) or ends[-1] != len(lengths)):
        ends = np.append(ends, len(lengths))
    return [Shard(n, int(a), int(b)) for n, (a, b) in enumerate(pairwise([0, *ends]))]


def file_of(directory: Path, shard: Shard) -> Path:
    return directory / f"shard-{shard.number:06d}.arrow"


def steps_of(store: TokenStore, documents: Sequence[int]) -> np.ndarray:
    """(D,) int64: how many steps the trace of each document has; a document without a trace has one, step 0."""
    return np.array([int(store.steps(document).max()) + 1 for document in documents], np.int64)


def sizes_of(store: TokenStore, shard: Shard, channel: Channel) -> np.ndarray:
    """(D,) int64: how many tokens, or steps, of each document the channel holds."""
    if channel.per == "step":
        return steps_of(store, shard.documents)
    if channel.kinds:
        chosen = [store.kind_names.index(name) for name in channel.kinds]
        return store.counts[shard.first : shard.end, chosen].sum(1, dtype=np.int64)
    return store.lengths[shard.first : shard.end].astype(np.int64)


def held(store: TokenStore, document: int, channel: Channel) -> np.ndarray:
    """(n,) bool: the tokens of a document that a channel with ``kinds`` holds."""
    table = np.isin(store.kind_names, channel.kinds)
    mask: np.ndarray = table[store.kinds(document)]
    mask[0] = False  # never a target
    return mask


def write_shard(
    directory: Path,
    store: TokenStore,
    shard: Shard,
    channels: Sequence[Channel],
    values: Mapping[str, np.ndarray],  # name -> (n,) or (n, width), of the tokens, or steps, that it holds, in order
) -> None:
    """Write a shard, whole or not at all. Raises ValueError if a channel is missing or its values are too few, too
    many, or of another type; NoRoomError if the disk is full."""
    if set(values) != {channel.name for channel in channels}:
        raise ValueError(f"shard {shard.number} needs the channels {[c.name for c in channels]}, got {list(values)}")
    columns = []
    for channel in channels:
        sizes, found = sizes_of(store, shard, channel), np.ascontiguousarray(values[channel.name])
        shape = channel.blank(int(sizes.sum())).shape
        if found.shape != shape or found.dtype != channel.dtype:
            what = f"{found.dtype} {found.shape}, expected {channel.dtype} {shape}"
            raise ValueError(f"shard {shard.number}, channel '{channel.name}': {what}")
        offsets = np.concatenate([[0], np.cumsum(sizes * channel.width)])
        if offsets[-1] >= 2**31:
            raise ValueError(f"shard {shard.number}, channel '{channel.name}': {offsets[-1]} values do not fit in one")
        columns.append(pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(found.reshape(-1))))
    schema = schema_of(channels, shard)
    path = file_of(directory, shard)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    with needs_room(path, "the shards before it are kept"):
        try:
            with temporary.open("wb") as file, pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(pa.record_batch(columns, schema=schema))
            sync(temporary)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise


def schema_of(channels: Sequence[Channel], shard: Shard) -> pa.Schema:
    said = json.dumps([asdict(channel) for channel in channels])
    metadata = {"format": FORMAT, "channels": said, "documents": json.dumps([shard.first, shard.end])}
    return pa.schema([channel.field for channel in channels], metadata=metadata)


def read_shard(
    path: Path, store: TokenStore, shard: Shard, channels: Sequence[Channel]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Channel -> (first value of each document, and the end: (D + 1,) int64; all values: (n,) or (n, width)), the last
    a view of the file. Raises InputError naming a file that is missing, torn, or of other documents or channels."""
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            if not reader.schema.equals(schema_of(channels, shard), check_metadata=True):
                raise ValueError("it holds other channels, or other documents")
            if reader.num_record_batches != 1:
                raise ValueError(f"it has {reader.num_record_batches} batches, expected 1")
            batch = reader.get_batch(0)
        batch.validate()
        found = {}
        for channel in channels:
            column = batch.column(channel.name)
            offsets = numbers(column.offsets).astype(np.int64)
            if column.null_count or not np.array_equal(
                np.diff(offsets), sizes_of(store, shard, channel) * channel.width
            ):
                raise ValueError(f"'{channel.name}' has values of other tokens than the token store's")
            flat = numbers(column.values)
            if offsets[0] != 0 or offsets[-1] != len(flat):
                raise ValueError(f"the places of '{channel.name}' are damaged")
            shaped = flat if channel.width == 1 else flat.reshape(-1, channel.width)
            found[channel.name] = offsets // channel.width, shaped
        return found
    except BROKEN as error:
        raise InputError(f"{path}: not a whole shard of this token store ({error}); {ANEW}") from error
