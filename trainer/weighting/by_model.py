"""Built-in weightings that read the model: ``dft`` and ``focal``; ``excess_loss`` stands in ``excess``.

Their factors f_i act inside the loss kernel, are held constant by autograd, and never enter the normaliser's c: a
step whose factors are small has a small loss. torch is imported when a multiplier is first used, not before.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

from pydantic import BaseModel, Field

from tracestill.trainer.weighting.base import MultiplierOptions
from tracestill.trainer.weighting.by_kind import SpanWeighting

if TYPE_CHECKING:
    from tracestill.kernels.loss import Multiplier


class DynamicFineTuningOptions(MultiplierOptions):
    exponent: float = Field(1.0, gt=0, description="power of the target's probability; 1 is DFT as published")


class DynamicFineTuning(SpanWeighting):
    """DFT: the student's own probability of the target weighs its loss.

        f_i = sg(p_i) ** exponent

    Wu and others, arXiv 2508.05629: it removes the 1 / p from the gradient's implicit reward. Little is gained
    where nearly every token is certain already, as in templated traces, and what the student finds unlikely, such as a
    format that is new to it, is hardly learnt at all: name the ``kinds`` that it can write.
    """

    Options: ClassVar[type[BaseModel]] = DynamicFineTuningOptions

    @cached_property
    def dynamic(self) -> Multiplier:  # type: ignore[override]  # made when torch is there
        from tracestill.kernels.loss import PowerOfP

        return PowerOfP(self.options.exponent)


class FocalLossOptions(MultiplierOptions):
    gamma: float = Field(2.0, gt=0, description="the larger, the less a token counts that is already likely")


class FocalLoss(SpanWeighting):
    """Likely tokens count less.

        f_i = sg(1 - p_i) ** gamma

    The modulating factor of the focal loss (Lin and others, arXiv 1708.02002), held constant.
    """

    Options: ClassVar[type[BaseModel]] = FocalLossOptions

    @cached_property
    def dynamic(self) -> Multiplier:  # type: ignore[override]  # made when torch is there
        from tracestill.kernels.loss import Focal

        return Focal(self.options.gamma)
