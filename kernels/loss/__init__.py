"""The head's product and the weighted cross-entropy in one operation."""

from tracestill.kernels.loss.fused import STATISTICS, linear_cross_entropy
from tracestill.kernels.loss.options import Excess, Focal, Multiplier, PowerOfP, TeacherTopK, Within, check_weights

__all__ = [
    "STATISTICS",
    "Excess",
    "Focal",
    "Multiplier",
    "PowerOfP",
    "TeacherTopK",
    "Within",
    "check_weights",
    "linear_cross_entropy",
]
