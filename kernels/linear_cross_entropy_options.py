"""Options of `linear_cross_entropy`: what changes a row's loss, and the multipliers that read the model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Multiplier = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(nll, p, entropy), each (C,) fp32 -> (C,) factor of the weight, finite and >= 0, taken as a constant."""


@dataclass(frozen=True)
class RowOptions:
    """What turns a row's logits into its loss."""

    logit_scale: float = 1.0
    softcap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    bias: bool = False

    def __post_init__(self) -> None:
        """Refuse values that have no meaning.  Raises ValueError."""
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap must be > 0 or None, not {self.softcap}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), not {self.label_smoothing}")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss must be >= 0, not {self.z_loss}")


def check_weights(weights: Tensor) -> None:
    """Raise ValueError unless every weight is finite and >= 0; call it where weights are made (it waits for a GPU)."""
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0])
        raise ValueError(f"weights must be finite and >= 0, but row {row} holds {float(weights.flatten()[row])}")
