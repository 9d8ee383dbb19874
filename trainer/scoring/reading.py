"""What reads a pack of documents and says something of their tokens: the trainer's own forward pass, no gradient.

A server (``server.py``), and a model with another tokenizer (``align.py``), are read as a model here is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.sides import encoder_lengths
from tracestill.kernels.loss import TokenScores, token_scores
from tracestill.trainer.batches.rectangles import RowMaker
from tracestill.trainer.student.student import Student


@dataclass(frozen=True)
class Pack:
    """D documents, one after the other, and the kinds of which something is asked."""

    names: Sequence[str]  # of the documents, for messages
    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    offsets: np.ndarray  # (D + 1,)
    table: np.ndarray  # (K,) float32: not 0 for the kinds of whose targets something is asked

    def targets(self) -> np.ndarray:
        """(M,) places, ascending, of the tokens of which something is asked; what is given, such as a document's first
        token, is no target."""
        starts, lengths = self.offsets[:-1].astype(np.int64), np.diff(self.offsets)
        behind = np.arange(len(self.kinds)) - np.repeat(starts, lengths)
        first = np.repeat(np.maximum(encoder_lengths(self.kinds, starts), 1), lengths)
        return np.flatnonzero((self.table[self.kinds] != 0) & (behind >= first))

    def where(self, place: int) -> str:
        """A token's document and its number there, in words."""
        at = int(np.searchsorted(self.offsets, place, side="right")) - 1
        return f"document {self.names[at]}, token {place - int(self.offsets[at])}"


class Source(Protocol):
    """Something that knows how likely tokens are."""

    def read(self, pack: Pack, *, entropy: bool = False, rank: bool = False, k: int = 0) -> TokenScores:
        """What it says of the pack's targets, in their order; NaN, and -1, of those of which it knows nothing. Raises
        InputError naming a document of which it says what makes no sense."""


@dataclass(frozen=True)
class LocalModel:
    """A model on this rank's device, and how it is fed."""

    student: Student
    make_row: RowMaker
    pad_id: int
    device: torch.device

    @torch.no_grad()
    def read(self, pack: Pack, **wanted: Any) -> TokenScores:
        ones = np.ones(len(pack.names), np.float32)
        row = self.make_row(pack.tokens, pack.kinds, pack.offsets, ones, pack.table, self.pad_id, self.device)
        head, hidden = self.student.head[0], self.student.hidden_states(row)
        how = {"bias": head.bias, "active": row.active, **head.logits}
        found = token_scores(hidden, head.weight, row.labels, **how, **wanted)
        wrong = np.flatnonzero(~np.isfinite(found.nll.cpu().numpy()))
        if len(wrong):
            raise InputError(
                f"{pack.where(int(pack.targets()[wrong[0]]))}: the model's probability of it is no number above 0; its "
                "weights are damaged, or train.precision is too low for them"
            )
        return found
