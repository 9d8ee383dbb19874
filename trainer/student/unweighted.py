"""What the student makes of targets without weight: a sample of them, so that no kind vanishes from the log.

Such targets take no part in training, and of their head's work the loss does none. In a micro-step of which the log
tells, a few of them pass the head once more, without a gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tracestill.kernels.loss import Statistic, linear_cross_entropy
from tracestill.kernels.pack import NO_LABEL, PackedBatch

ROWS = 256  # of a micro-step; of the head's three products for a row that is trained on, such a row takes one


@torch.no_grad()
def statistics(
    hidden: Tensor,  # (T, H)
    weight: Tensor,  # (V, H) the head's matrix
    bias: Tensor | None,  # (V,)
    packed: PackedBatch,
    num_kinds: int,
    logits: Mapping[str, Any],
) -> Tensor:
    """(num_kinds, S): columns as in ``Statistic``, over the sample of ``packed``; those of weights are 0.

    ``logits`` says how logits come to be; what else makes the loss has nothing to do here.
    """
    rows, there = sample(packed.labels, packed.loss_weight, packed.kinds)
    _, found = linear_cross_entropy(
        hidden[rows],
        weight,
        packed.labels[rows],
        there.float(),
        packed.kinds[rows],
        num_kinds=num_kinds,
        bias=bias,
        active=torch.arange(len(rows), device=rows.device),
        **logits,
    )
    for column in (Statistic.WEIGHT, Statistic.WEIGHTED_NLL):  # a list as the index would make the host wait for a GPU
        found[:, column] = 0.0
    return found


def sample(
    labels: Tensor,  # (T,) int64
    weights: Tensor,  # (T,)
    kinds: Tensor,  # (T,) uint8
    size: int = ROWS,
) -> tuple[Tensor, Tensor]:
    """Positions (S,) ascending, S = min(size, T), and which of them are labels without weight, (S,) bool.

    Each kind but pad gets as many as the others, as far as it has them. A hash of the position draws them: the same
    row gives the same sample. S does not depend on what is found, so the host waits for no GPU.
    """
    free = (labels != NO_LABEL) & (weights == 0) & (kinds != 0)
    at = torch.arange(len(labels), device=labels.device)
    order = (at * 2654435761 % 2**32).argsort()  # Knuth's multiplicative hash
    kind = torch.where(free, kinds.long(), 256)[order]
    kind, by_kind = kind.sort(stable=True)
    order = order[by_kind]
    turn = at - torch.searchsorted(kind, kind)  # a position's place among those of its kind
    first = torch.where(kind < 256, turn, len(at)).argsort(stable=True)[:size]
    rows = order[first].sort().values
    return rows, free[rows]
