"""Writing the channels of one model: shard by shard, by any number of processes, to be gone on with after a crash.

Shards are written into a directory beside the one that they will become, each whole or not at all; so a crash loses at
most those in work. The last one to come writes the manifest, and gives the directory its name.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from tracestill.data_pipeline.base.content import MEMORY
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.places import mark, remove, replaceable
from tracestill.data_pipeline.base.room import needs_room
from tracestill.data_pipeline.base.stage import (
    Stage,
    changed_files,
    identity,
    put_in_place,
    read_manifest,
    same,
    sync,
    write_json,
    write_manifest,
)
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.channels.shards import (
    Shard,
    file_of,
    read_shard,
    shard_tokens_of,
    shards_of,
    write_shard,
)
from tracestill.data_pipeline.tokens.store import TokenStore

STAGE = "score"
SHARD = "shard_tokens"
WHO = ".work.json"  # what the shards beside it are made from


def draft_beside(directory: Path) -> Path:
    """Where the shards of a directory lie until all are there."""
    return directory.with_name(f".{directory.name}.scoring")


class ChannelWriter:
    """Writes ``directory``. Open it on one rank with ``begin=True`` first, then on the others.

    ``config``: what decides the values (the model by content, what was asked); ``inputs``: directories of finished
    stages, as ``base.stage.stage`` has them. What an earlier try left is gone on with if all that is the same, and
    deleted if not. ``shard_tokens``: about how many tokens a shard has (None: ``shard_tokens_of``).
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
        shard_tokens: int | None = None,
    ) -> None:
        self.named, self.directory = directory, replaceable(directory, (MEMORY,))
        self.store, self.channels = store, tuple(channels)
        self.shard_tokens = shard_tokens or shard_tokens_of(store.lengths)
        self.shards = shards_of(store.lengths, self.shard_tokens)
        self.who = identity(STAGE, config, inputs)
        self.draft = draft_beside(self.directory)
        self.started = time.perf_counter()
        if begin:
            self.begin()

    def begin(self) -> None:
        """Make the shards' directory, or go on in one that holds shards of the same work."""
        if self.draft.exists() and not self.is_mine():
            remove(self.draft)
        with needs_room(self.draft, "nothing is lost"):
            self.draft.mkdir(parents=True, exist_ok=True)
            for left in self.draft.glob(".*.tmp"):
                left.unlink()
            write_json(self.draft / WHO, {**self.who, SHARD: self.shard_tokens})

    def take_over(self) -> None:
        """Go on from a finished directory of this very work of which some shards are gone: the others count."""
        held = read_manifest(self.directory)
        if held is None or self.is_mine() or not same(held, self.who) or held.get(SHARD) != self.shard_tokens:
            return
        self.begin()
        for name in sorted(set(held["files"]) - set(changed_files(self.directory))):
            if (path := self.directory / name).exists():
                with suppress(OSError):  # a file system without links: it is written again
                    os.link(path, self.draft / name)

    def is_mine(self) -> bool:
        """Whether what an earlier try left is of this work."""
        try:
            held = json.loads((self.draft / WHO).read_text(encoding="utf-8"))
            return held.pop(SHARD) == self.shard_tokens and same(held, self.who)
        except (OSError, ValueError, LookupError, AttributeError, TypeError):
            return False

    def missing(self) -> list[Shard]:
        """The shards that are not there yet, or not whole."""
        return [shard for shard in self.shards if not self.has(shard)]

    def there(self, shard: Shard) -> bool:
        """Whether a shard has been written, by whomever."""
        return file_of(self.draft, shard).exists()

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
        about = {"channels": [c.name for c in self.channels], SHARD: self.shard_tokens, **(extra or {})}
        work = Stage(self.draft, dict(counts), about)
        with needs_room(self.draft, "all shards are kept"):
            write_manifest(self.draft, self.who, work, time.perf_counter() - self.started, ("shard-*.arrow",))
        (self.draft / WHO).unlink(missing_ok=True)
        mark(self.draft, self.named)
        sync(self.draft)
        replaceable(self.named, (MEMORY,))
        put_in_place(self.draft, self.directory)
