"""What a model says of the tokens of one pack, and of those of a shard: the trainer's own forward pass, no gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

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
OF_ALL = ("nll", "entropy", "rank", "top1")  # of every target; topk may be of some kinds only


@dataclass(frozen=True)
class Reader:
    """A model, how it is fed, and what is asked of it."""

    student: Student
    make_row: RowMaker
    pad_id: int
    device: torch.device
    channels: Sequence[Channel]  # one value a token

    @cached_property
    def names(self) -> frozenset[str]:
        return frozenset(channel.name for channel in self.channels)

    @property
    def k(self) -> int:
        return next((channel.width for channel in self.channels if channel.name == "topk_ids"), 0)

    def wanted(self, store: TokenStore) -> np.ndarray:
        """(K,) float32: 1 for the kinds whose targets the head looks at; ``pad`` is never predicted."""
        table = np.ones(len(store.kind_names), np.float32)
        if not self.names & set(OF_ALL):
            kept = {name for channel in self.channels for name in channel.kinds or store.kind_names}
            table = np.isin(store.kind_names, sorted(kept)).astype(np.float32)
        table[0] = 0.0
        return table

    @torch.no_grad()
    def pack(self, store: TokenStore, documents: np.ndarray) -> dict[str, np.ndarray]:
        """Channel -> (n,) or (n, width) of the documents' tokens, one document after the other.

        Raises InputError naming a document of which the model says what is no number.
        """
        tokens, kinds, offsets, _ = store.gather(documents)
        table = self.wanted(store)
        ones = np.ones(len(documents), np.float32)
        packed = self.make_row(tokens, kinds, offsets, ones, table, self.pad_id, self.device)
        head = self.student.head[0]
        seen = token_scores(
            self.student.hidden_states(packed),
            head.weight,
            packed.labels,
            bias=head.bias,
            active=packed.active,
            entropy="entropy" in self.names,
            rank="rank" in self.names,
            k=self.k,
            **head.logits,
        )
        places = targets_of(kinds, offsets, table)
        check_finite(seen, places, offsets, [store.ids[document] for document in documents], store)
        return {channel.name: spread(channel, seen, places, len(tokens)) for channel in self.channels}


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
    seen: TokenScores, places: np.ndarray, offsets: np.ndarray, ids: Sequence[str], store: TokenStore
) -> None:
    wrong = np.flatnonzero(~np.isfinite(seen.nll.cpu().numpy()))
    if len(wrong):
        place = places[wrong[0]]
        document = int(np.searchsorted(offsets, place, side="right")) - 1
        raise InputError(
            f"{store.path}: document {ids[document]}: the model's probability of token {place - offsets[document]} is "
            "no number above 0; its weights are damaged, or train.precision is too low for them"
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
    capacity: int,
    tick: Callable[[int], None] = lambda tokens: None,
) -> dict[str, np.ndarray]:
    """Channel -> its values of the documents' tokens in the store's order, as a shard holds them before some are left
    out. ``tick`` is told the tokens of each pack that is done. How documents are packed follows from them alone."""
    lengths = store.lengths[documents.start : documents.stop].astype(np.int64)
    first = np.concatenate([[0], np.cumsum(lengths)])
    found = {channel.name: channel.blank(int(first[-1])) for channel in reader.channels}
    order = documents.start + np.argsort(lengths, kind="stable")  # those of like length together
    for row in rows_of(store.lengths, capacity, order=order.tolist()):
        values = reader.pack(store, row)
        at = 0
        for document in row.tolist():
            place, size = int(first[document - documents.start]), int(store.lengths[document])
            for name, held in found.items():
                held[place : place + size] = values[name][at : at + size]
            at += size
        tick(at)
    return found
