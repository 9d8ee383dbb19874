"""What reads a pack of documents and says something of their tokens: the trainer's own forward pass, no gradient.

A server (``server.py``), and a model with another tokenizer (``align.py``), are read as a model here is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.tokens.sides import encoder_lengths
from tracestill.kernels.loss import TokenScores
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.batches.rectangles import RowMaker
from tracestill.trainer.engine.partitioned import Partitioned
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

    @property
    def along(self) -> Callable[[], None] | None:
        """A pass of which only other ranks need something; None where each rank reads alone."""

    def join(self, meet: Callable[..., bool], idle: Callable[[], object]) -> None:
        """From now on ``meet`` (see ``leaving.Meetings``) comes before each pass of all ranks, and ``idle`` is called
        while answers are waited for."""

    def read(self, pack: Pack, *, entropy: bool = False, rank: bool = False, k: int = 0) -> TokenScores:
        """What it says of the pack's targets, in their order; NaN, and -1, of those of which it knows nothing. Raises
        InputError naming a document of which it says what makes no sense."""


@dataclass(frozen=True)
class LocalModel:
    """A model on this rank's device, or with its parameters shared out among all ranks, and how it is fed."""

    student: Student
    make_row: RowMaker
    pad_id: int
    device: torch.device
    shared: Partitioned | None = None

    @property
    def along(self) -> Callable[[], None] | None:
        return None if self.shared is None else self.read_for_others

    def join(self, meet: Callable[..., bool], idle: Callable[[], object]) -> None:
        if self.shared is not None:
            self.shared.meet = meet

    def read(self, pack: Pack, **wanted: Any) -> TokenScores:
        ones = np.ones(len(pack.names), np.float32)
        row = self.make_row(pack.tokens, pack.kinds, pack.offsets, ones, pack.table, self.pad_id, self.device)
        return self.look(row, lambda at: pack.where(int(pack.targets()[at])), **wanted)

    def look(self, row: PackedBatch, where: Callable[[int], str], **wanted: Any) -> TokenScores:
        """What it says of a row's active positions. Raises InputError with the words of ``where`` for the first of them
        of which it says what is no number."""
        found = (self.student.token_scores if self.shared is None else self.shared.read)(row, **wanted)
        wrong = np.flatnonzero(~np.isfinite(found.nll.cpu().numpy()))
        if len(wrong):
            raise InputError(
                f"{where(int(wrong[0]))}: the model's probability of it is no number above 0; its weights are damaged, "
                "or train.precision is too low for them"
            )
        return found

    def read_for_others(self) -> None:
        assert self.shared is not None
        two, ends = np.array([0, 1], np.uint8), np.array([0, 2])  # one token to read, one to predict
        tokens, table = np.full(2, self.pad_id, np.int32), np.array([0, 1], np.float32)
        one = np.ones(1, np.float32)
        self.shared.along(self.make_row(tokens, two, ends, one, table, self.pad_id, self.device))
