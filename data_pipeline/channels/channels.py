"""Reading channels: by document, or a pack at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import nearest
from tracestill.data_pipeline.base.stage import read_manifest
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.channels.shards import ANEW, FORMAT, file_of, held, read_shard, shards_of
from tracestill.data_pipeline.channels.writer import SHARD
from tracestill.data_pipeline.tokens.store import BROKEN, TokenStore, join


class Channels:
    """The channels of one model, in a directory that ``ChannelWriter`` has finished.

    ``channels``: name -> ``Channel``. ``store_digest``: ``base.stage.output_digest`` of the encode stage, where it is
    known: channels of another store are refused by it, even one with documents of the same lengths.

    Raises InputError naming the directory, or the file in it, that is missing, torn, or of another token store.
    """

    def __init__(self, directory: Path, store: TokenStore, store_digest: str | None = None) -> None:
        self.directory, self.store = directory, store
        manifest = read_manifest(directory)
        if manifest is None or manifest.get("stage") != "score":
            raise InputError(f"{directory}: holds no channels; run `tracestill score` first")
        self.manifest: Mapping[str, Any] = manifest
        of = manifest.get("inputs", {}).get("encode")
        if store_digest is not None and of != store_digest:
            raise InputError(f"{directory}: its channels are of another token store than {store.path}; score again")
        size = manifest.get(SHARD)
        if not isinstance(size, int) or size < 1:
            raise InputError(f"{directory}: its manifest does not say what its shards hold; delete it, and score again")
        shards = shards_of(store.lengths, size)
        self.channels = {channel.name: channel for channel in self._found(shards)} if shards else {}
        read = [read_shard(file_of(directory, s), store, s, tuple(self.channels.values())) for s in shards]
        self._ends = np.array([shard.end for shard in shards], np.int64)
        self._firsts = np.array([shard.first for shard in shards], np.int64)
        self._starts = {name: [shard[name][0] for shard in read] for name in self.channels}
        self._values = {name: [shard[name][1] for shard in read] for name in self.channels}

    def _found(self, shards: list[Any]) -> list[Channel]:
        """The channels as the first shard names them."""
        path = file_of(self.directory, shards[0])
        try:
            with pa.memory_map(str(path)) as source:
                metadata = pa.ipc.open_file(source).schema.metadata or {}
            if metadata.get(b"format") != FORMAT.encode():
                raise ValueError("it is no shard of channels")
            return [Channel(**said) for said in json.loads(metadata[b"channels"])]
        except (*BROKEN, TypeError) as error:
            raise InputError(f"{path}: not a whole shard ({error}); {ANEW}") from error

    def __contains__(self, name: object) -> bool:
        return name in self.channels

    def channel(self, name: str) -> Channel:
        """Raises InputError naming the nearest channel that there is."""
        if name not in self.channels:
            raise InputError(f"{self.directory}: has no channel '{name}'{nearest(name, list(self.channels))}")
        return self.channels[name]

    def of(self, name: str, document: int) -> np.ndarray:
        """(n,) or (n, width) of a document's values, one (or ``width``) a token, or a step: a view of the file, unless
        the channel holds some kinds only. Raises InputError for a channel that is not there, IndexError for such a
        document."""
        channel = self.channel(name)
        if not 0 <= document < len(self.store):
            raise IndexError(f"{self.directory}: document {document} of {len(self.store)}")
        shard = int(np.searchsorted(self._ends, document, side="right"))
        at = document - int(self._firsts[shard])
        start, end = self._starts[name][shard][at : at + 2]
        found = self._values[name][shard][start:end]
        if not channel.kinds:
            return found
        whole = channel.blank(int(self.store.lengths[document]))
        whole[held(self.store, document, channel)] = found
        return whole

    def gather(self, name: str, documents: np.ndarray) -> np.ndarray:
        """Values of the documents of a pack, one after the other: (n,) or (n, width)."""
        channel = self.channel(name)
        return join([self.of(name, int(document)) for document in documents], channel.blank(0))
