"""The head's product and the weighted cross-entropy in one operation."""

from tracestill.kernels.loss.fused import linear_cross_entropy
from tracestill.kernels.loss.options import (
    Divergence,
    Excess,
    Focal,
    Given,
    Multiplier,
    PowerOfP,
    Statistic,
    TeacherTopK,
    check_weights,
)
from tracestill.kernels.loss.rows import RowLosses, linear_cross_entropy_rows
from tracestill.kernels.loss.token_scores import TokenScores, token_scores

__all__ = [
    "Divergence",
    "Excess",
    "Focal",
    "Given",
    "Multiplier",
    "PowerOfP",
    "RowLosses",
    "Statistic",
    "TeacherTopK",
    "TokenScores",
    "check_weights",
    "linear_cross_entropy",
    "linear_cross_entropy_rows",
    "token_scores",
]
