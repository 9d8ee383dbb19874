"""Writing the channels of one model: shard by shard, by any number of processes, to be gone on with after a crash.

Shards are written into a directory beside the one that they will become, each whole or not at all; so a crash loses at
most those in work. The last one to come writes the manifest, and gives the directory its name.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.content import MEMORY
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import mark, remove, replaceable
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import (
    Stage,
    digest_of,
    identity,
    put_in_place,
    sync,
    write_manifest,
    write_whole,
)
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.channels.shards import (
    SHARD_TOKENS,
    Shard,
    file_of,
    read_shard,
    shards_of,
    write_shard,
)
from tracestill.data_pipeline.tokens.store import TokenStore

STAGE = "score"
WHO = ".work"  # a digest of what the shards beside it are made from


class ChannelWriter:
    """Writes ``directory``. Open it on one rank with ``begin=True`` first, then on the others.

    ``config``: what decides the values (the model by content, what was asked); ``inputs``: directories of finished
    stages, as ``base.stage.stage`` has them. What an earlier try left is gone on with if all that is the same, and
    deleted if not.
    """

    def __init__(
        self,
        directory: Path,
        store: TokenStore,
        channels: Sequence[Channel],
        config: Mapping[str, Any],
        inputs: Mapping[str, Path],
        *,
        begin: bool = True,
        shard_tokens: int = SHARD_TOKENS,
    ) -> None:
        self.named, self.directory = directory, replaceable(directory, (MEMORY,))
        self.store, self.channels = store, tuple(channels)
        self.shards = shards_of(store.lengths, shard_tokens)
        self.who = identity(STAGE, {**config, "shard_tokens": shard_tokens}, inputs)
        self.draft = self.directory.with_name(f".{self.directory.name}.scoring")
        self.started = time.perf_counter()
        if begin:
            self.begin()

    def begin(self) -> None:
        """Make the shards' directory, or go on in one that holds shards of the same work."""
        mine = digest_of(self.who)
        if self.draft.exists() and self.made_by() != mine:
            remove(self.draft)
        with needs_room(self.draft, "nothing is lost"):
            self.draft.mkdir(parents=True, exist_ok=True)
            for left in self.draft.glob(".*.tmp"):
                left.unlink()
            write_whole(self.draft / WHO, mine)

    def made_by(self) -> str | None:
        try:
            return (self.draft / WHO).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def missing(self) -> list[Shard]:
        """The shards that are not there yet, or not whole."""
        return [shard for shard in self.shards if not self.has(shard)]

    def has(self, shard: Shard) -> bool:
        path = file_of(self.draft, shard)
        if not path.exists():
            return False
        try:
            read_shard(path, self.store, shard, self.channels)
        except InputError:
            return False
        return True

    def write(self, shard: Shard, values: Mapping[str, np.ndarray]) -> None:
        """As ``shards.write_shard``, which says what is raised."""
        write_shard(self.draft, self.store, shard, self.channels, values)

    def finish(self, counts: Mapping[str, Any], extra: Mapping[str, Any] | None = None) -> None:
        """Give all shards their manifest and the directory its name, on one rank, when all are there.

        Raises InputError naming a shard that is missing or not whole.
        """
        for shard in self.shards:
            read_shard(file_of(self.draft, shard), self.store, shard, self.channels)
        work = Stage(self.draft, dict(counts), {"channels": [c.name for c in self.channels], **(extra or {})})
        with needs_room(self.draft, "all shards are kept"):
            write_manifest(self.draft, self.who, work, time.perf_counter() - self.started, ("shard-*.arrow",))
        (self.draft / WHO).unlink(missing_ok=True)
        mark(self.draft, self.named)
        sync(self.draft)
        replaceable(self.named, (MEMORY,))
        put_in_place(self.draft, self.directory)
