"""What `pack` makes, what it is made of, and which rows of it are active: for the reference and the kernel alike."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

NO_LABEL = -100
BLOCK = 1024  # tokens a program of the GPU kernel handles; the unit of the host's prefix counts


@dataclass(frozen=True)
class PackedBatch:
    """One row of T positions holding D documents, and S segments: D, plus one for the padding behind them if any."""

    input_ids: torch.Tensor  # (1, T) int64
    labels: torch.Tensor  # (T,) int64, -100 where the position predicts nothing
    position_ids: torch.Tensor  # (1, T) int64, from 0 in every segment
    loss_weight: torch.Tensor  # (T,) float32, 0 where there is no label
    kinds: torch.Tensor  # (T,) uint8, of the label; 0 where there is none
    cu_seqlens: torch.Tensor  # (S + 1,) int32
    active: torch.Tensor  # (A,) int64, ascending
    max_length: int  # tokens of the longest segment
    reference_nll: torch.Tensor | None = field(default=None, kw_only=True)  # (T,) float32 of the labels, if it is known

    @property
    def positions(self) -> int:
        """How many the student computes."""
        return len(self.labels)


@dataclass(frozen=True)
class Source:
    """The checked arguments of `pack`, as contiguous arrays on the host."""

    tokens: np.ndarray  # (n,) int32
    kinds: np.ndarray  # (n,) uint8
    bounds: np.ndarray  # (S + 1,) int32: the row's cu_seqlens
    record_weights: np.ndarray  # (S,) float32, 0 for the padding
    table: np.ndarray  # (K,) float32
    token_weights: np.ndarray | None  # (n,) float32
    length: int  # T
    pad_id: int


def active_mask(source: Source) -> np.ndarray:
    """(max(n - 1, 0),) bool: position i < n - 1 has a label whose weight has no zero factor."""
    n = len(source.tokens)
    carries = np.repeat(source.record_weights != 0, np.diff(source.bounds))[: max(n - 1, 0)]
    carries &= (source.table != 0)[source.kinds[1:]]
    if source.token_weights is not None:
        carries &= source.token_weights[1:] != 0
    carries[source.bounds[(source.bounds > 0) & (source.bounds < n)] - 1] = False
    return carries
