"""What a model says of the tokens of one pack, and of those of a shard: the trainer's own forward pass, no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels import Channel
from tracestill.data_pipeline.tokens.sides import encoder_lengths
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.loss import TokenScores, token_scores
from tracestill.trainer.batches.rectangles import RowMaker
from tracestill.trainer.evaluation.rows import rows_of
from tracestill.trainer.student.student import Student

LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class Reader:
    """A model, and how it is fed."""

    student: Student
    make_row: RowMaker
    pad_id: int
    device: torch.device

    @torch.no_grad()
    def read(
        self,
        tokens: np.ndarray,  # (n,) int32 of documents one after the other
        kinds: np.ndarray,  # (n,) uint8
        offsets: np.ndarray,  # (D + 1,)
        table: np.ndarray,  # (K,) float32: not 0 for the kinds whose targets the head looks at
        **wanted: Any,
    ) -> tuple[TokenScores, np.ndarray]:
        """What the model says of a pack, ``wanted`` as ``token_scores`` has it: of M targets; and (M,) their places
        among the tokens."""
        ones = np.ones(len(offsets) - 1, np.float32)
        packed = self.make_row(tokens, kinds, offsets, ones, table, self.pad_id, self.device)
        head, hidden = self.student.head[0], self.student.hidden_states(packed)
        how = {"bias": head.bias, "active": packed.active, **head.logits}
        return token_scores(hidden, head.weight, packed.labels, **how, **wanted), targets_of(kinds, offsets, table)

    def pack(self, store: TokenStore, documents: np.ndarray, channels: Sequence[Channel]) -> dict[str, np.ndarray]:
        """Channel -> (n,) or (n, width) of the documents' tokens, one document after the other. ``channels`` have
        values by token.

        Raises InputError naming a document of which the model says what is no number.
        """
        tokens, kinds, offsets, _ = store.gather(documents)
        names = {channel.name for channel in channels}
        k = next((channel.width for channel in channels if channel.name == "topk_ids"), 0)
        wanted: Any = {"entropy": "entropy" in names, "rank": "rank" in names, "k": k}
        seen, places = self.read(tokens, kinds, offsets, looked_at(channels, store.kind_names), **wanted)
        check_finite(seen, places, offsets, documents, store)
        return {channel.name: spread(channel, seen, places, len(tokens)) for channel in channels}


def looked_at(channels: Sequence[Channel], names: Sequence[str]) -> np.ndarray:
    """(K,) float32: 1 for the kinds of which some channel holds targets; ``pad`` is never predicted."""
    table = np.zeros(len(names), np.float32)
    for channel in channels:
        table[np.isin(names, channel.kinds or names)] = 1.0
    table[0] = 0.0
    return table


def targets_of(
    kinds: np.ndarray,  # (n,) of documents one after the other
    offsets: np.ndarray,  # (D + 1,)
    table: np.ndarray,  # (K,) not 0 for the kinds that are looked at
) -> np.ndarray:
    """(M,) places of the tokens whose row has something to say, in the order of the rows' ``active``."""
    starts = offsets[:-1].astype(np.int64)
    behind = np.arange(len(kinds)) - np.repeat(starts, np.diff(offsets))
    first = np.repeat(np.maximum(encoder_lengths(kinds, starts), 1), np.diff(offsets))  # what is given is no target
    return np.flatnonzero((table[kinds] != 0) & (behind >= first))


def check_finite(
    seen: TokenScores, places: np.ndarray, offsets: np.ndarray, documents: np.ndarray, store: TokenStore
) -> None:
    """Raises InputError naming a document of which the model says what is no number."""
    wrong = np.flatnonzero(~np.isfinite(seen.nll.cpu().numpy()))
    if len(wrong):
        place = places[wrong[0]]
        at = int(np.searchsorted(offsets, place, side="right")) - 1
        what = f"document {store.ids[documents[at]]}: the model's probability of token {place - offsets[at]}"
        raise InputError(
            f"{store.path}: {what} is no number above 0; its weights are damaged, or train.precision is too low for it"
        )


def spread(channel: Channel, seen: TokenScores, places: np.ndarray, count: int) -> np.ndarray:
    """A channel's values, (count,) or (count, width), from those of the rows looked at."""
    of = {"topk_ids": "ids", "topk_logprobs": "log_probs"}.get(channel.name, channel.name)
    values = getattr(seen, of).cpu().numpy()
    if channel.dtype == "float16":
        values = np.clip(values, -LARGEST, LARGEST, where=np.isfinite(values), out=values)
    whole = channel.blank(count)
    whole[places] = values.astype(channel.dtype)
    return whole


def read_shard(
    reader: Reader,
    store: TokenStore,
    documents: range,
    channels: Sequence[Channel],
    capacity: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """Channel -> its values of the documents' tokens in the store's order, as a shard holds them before some are left
    out. ``tick`` is told the tokens of each pack that is done. How documents are packed follows from them alone."""
    lengths = store.lengths[documents.start : documents.stop].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    found = {channel.name: channel.blank(int(first[-1])) for channel in channels}
    order = documents.start + np.argsort(lengths, kind="stable")  # those of like length together
    for row in rows_of(store.lengths, capacity, order=order.tolist()):
        values = reader.pack(store, row, channels)
        at = 0
        for document in row.tolist():
            place, size = int(first[document - documents.start]), int(store.lengths[document])
            for name, held in found.items():
                held[place : place + size] = values[name][at : at + size]
            at += size
        tick(at)
    return found
