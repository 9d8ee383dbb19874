"""What a teacher says of a pack's targets, laid out as the pack's row is: entries of its channel, and their weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.tokens.sides import encoder_lengths
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.loss import TeacherTopK
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.weighting import TargetWeights
from tracestill.trainer.weighting.by_teacher import IDS, LOG_PROBS, DistilConfig, TeacherWeighting
from tracestill.trainer.weighting.target_weights import PackWeights


class Teacher:
    """The teacher's term of a recipe, for the rows of its packs."""

    def __init__(
        self, store: TokenStore, config: DistilConfig, kinds: Kinds, channels: Channels, vocabulary: int
    ) -> None:
        """``vocabulary``: tokens that the student knows; an entry of any other is none, and goes with the rest. Raises
        InputError if the channels hold no top-k."""
        self.config, self.channels, self.vocabulary = config, channels, vocabulary
        self.weighting = TeacherWeighting(config, kinds, channels)
        self.weights = TargetWeights(store, self.weighting, config.normaliser)

    def mix(self, step: int) -> float:
        """The teacher's share of the loss of a step."""
        return self.config.mix_at(step)

    def beside(
        self,
        row: PackedBatch,  # of T positions, one of ``parts`` of the pack's
        documents: np.ndarray,  # (D,) that the pack holds
        kinds: np.ndarray,  # (n,) uint8 of their tokens
        offsets: np.ndarray,  # (D + 1,)
        label: PackWeights,
        own: PackWeights,  # the teacher's
        part: int = 0,
        parts: int = 1,
    ) -> tuple[PackedBatch, TeacherTopK]:
        """The row, whose ``active`` positions are now those of either weight; and the entries and weights of its T
        labels. 6 bytes an entry of each position go to the device."""
        length = len(row.labels)
        places = label_places(kinds, offsets, length * parts)[part * length : (part + 1) * length]
        there = places >= 0
        at = places[there]
        (_, by_label), (weights, by_teacher) = (of.of_labels(kinds, offsets) for of in (label, own))
        ids, log_probs = (self.channels.gather(name, documents) for name in (IDS, LOG_PROBS))
        ids = np.where(ids < self.vocabulary, ids, np.int32(-1))

        def laid(values: np.ndarray, missing: float) -> torch.Tensor:
            found = np.full((length, *values.shape[1:]), missing, values.dtype)
            found[there] = values[at]
            return torch.from_numpy(found).to(row.labels.device, non_blocking=True)

        either = np.zeros(length, bool)
        either[there] = (by_label | by_teacher)[at]
        active = torch.from_numpy(np.flatnonzero(either)).to(row.labels.device, non_blocking=True)
        entries = TeacherTopK(
            ids=laid(ids, -1),
            log_probs=laid(log_probs, np.nan),
            weights=laid(weights, 0.0),
            divergence=self.config.divergence,
            beta=self.config.beta,
        )
        return replace(row, active=active), entries


def label_places(
    kinds: np.ndarray,  # (n,) uint8 of a pack's tokens
    offsets: np.ndarray,  # (D + 1,) where its documents begin and end
    length: int,
) -> np.ndarray:
    """(length,) int64: which of the pack's n tokens is the label of each position of its row; -1: none.

    As ``batches.row_of`` and ``rectangles.paired_row`` lay them out: of an encoder-decoder's document a row holds what
    the decoder is fed, whose first label is the token behind what the encoder reads.
    """
    starts, lengths = offsets[:-1].astype(np.int64), np.diff(offsets).astype(np.int64)
    found = np.full(length, -1, np.int64)
    behind = np.arange(len(kinds)) - np.repeat(starts + encoder_lengths(kinds, starts), lengths)
    fed = np.flatnonzero(behind >= -1)
    document = np.repeat(np.arange(len(lengths)), lengths)[fed]
    goes_on = np.flatnonzero(document[1:] == document[:-1])
    found[goes_on] = fed[goes_on + 1]
    return found
