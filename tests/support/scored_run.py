"""Channels of a run without a model: what a scorer of the recipe would have written, made up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tracestill.data_pipeline.channels import BUILT_IN, Channels, ChannelWriter
from tracestill.data_pipeline.channels.channel import Channel
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.recipe.run_directory import RunDirectory

Said = Callable[[TokenStore, int], dict[str, np.ndarray]]
"""(store, document) -> name -> (n,) or (steps,) values, NaN (or the type's missing) where nothing is said."""


def write_channels(
    directory: Path, store: TokenStore, encode: Path, said: Said, names: tuple[str, ...], **more: object
) -> Channels:
    """The channels ``names`` of a store as ``said``."""
    channels: list[Channel] = [BUILT_IN[name] for name in names]
    writer = ChannelWriter(directory, store, channels, {"scorer": "made up", **more}, {"encode": encode})
    for shard in writer.missing():
        values = [said(store, document) for document in shard.documents]
        joined = {c.name: np.concatenate([one[c.name] for one in values]).astype(c.dtype) for c in channels}
        writer.write(shard, joined)
    writer.finish({"documents": len(store)})
    return Channels(directory, store)


def write_scores(run: RunDirectory, arm: str, said: Said) -> dict[str, Channels]:
    """All of an arm's scorers, saying the same; as current as if the stage had run."""
    encode = run.stage(arm, "encode")
    store, found = TokenStore(encode / "tokens.arrow", run.for_arm(arm).span_kinds()), {}
    for name, directory in run.scores(arm).items():
        config, inputs = run.score_stage(arm, name)
        channels = [BUILT_IN[channel] for channel in run.for_arm(arm).score[name].channels]
        writer = ChannelWriter(directory, store, channels, config, inputs)
        for shard in writer.missing():
            values = [said(store, document) for document in shard.documents]
            joined = {c.name: np.concatenate([one[c.name] for one in values]).astype(c.dtype) for c in channels}
            writer.write(shard, joined)
        totals = {"known": {}, "targets": {}, "means": {}, "bytes": 0}
        writer.finish({"documents": len(store), "tokens": int(store.lengths.sum()), **totals})
        found[name] = Channels(directory, store)
    return found


def made_up(store: TokenStore, document: int) -> dict[str, np.ndarray]:
    """Values that differ from token to token, and of the first nothing; influence by step, some of it negative."""
    rng = np.random.default_rng(document)
    n, steps = int(store.lengths[document]), int(store.steps(document).max()) + 1
    nll = rng.exponential(1.0, n).astype(np.float16)
    nll[0] = np.nan
    rank = rng.integers(0, 300, n).astype(np.uint32)
    rank[0] = np.uint32(2**32 - 1)
    influence = rng.normal(0.5, 1, steps).astype(np.float32)
    return {"nll": nll, "entropy": nll * 2, "rank": rank, "top1": -nll / 4, "influence": influence}
