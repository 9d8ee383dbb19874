"""Built-in weightings that read the model: ``dft``, ``focal`` and ``excess_loss``.

Their factors f_i act inside the loss kernel, are held constant by autograd, and never enter the normaliser's c: a
step whose factors are small has a small loss. torch is imported when a multiplier is first used, not before.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, Field, model_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels.named import split
from tracestill.data_pipeline.guards.names import Name
from tracestill.trainer.weighting.base import MultiplierOptions
from tracestill.trainer.weighting.by_kind import SpanWeighting
from tracestill.trainer.weighting.weighting import WeightingConfig

if TYPE_CHECKING:
    import torch

    from tracestill.kernels.loss import Multiplier

BINS = 4096
REACH = 16.0  # nats; bins span [-REACH, REACH), 1/128 nat each, and the outermost hold the rest


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


class ExcessLossOptions(MultiplierOptions):
    reference: Name | None = Field(
        None, description="directory of a model with the student's tokenizer, such as a run's export"
    )
    channel: Name | None = Field(None, description="or SCORER.nll of `score`: what such a model said is read from disk")
    threshold: float | None = Field(None, allow_inf_nan=False, description="excess in nats above which a token counts")
    share: float | None = Field(None, gt=0, le=1, description="or: the share of tokens of largest excess that counts")

    @model_validator(mode="after")
    def _one_of_two(self) -> ExcessLossOptions:
        if (self.threshold is None) == (self.share is None):
            raise ValueError("give exactly one of threshold and share")
        if (self.reference is None) == (self.channel is None):
            raise ValueError("give exactly one of reference and channel")
        if self.channel is not None and split(self.channel)[1] != "nll":
            raise ValueError(f"channel: an excess is one over an nll, not over '{self.channel}'")
        return self


class ExcessLoss(SpanWeighting):
    """Only tokens count that a reference model, trained on good data, predicts better than the student does.

        e_i = nll_i - nll_i of the reference        f_i = 1 if e_i > threshold else 0

    Selective language modeling of Rho-1 (Lin and others, arXiv 2404.07965). With ``share`` the threshold of a step
    is the quantile of e over the weighted tokens of ``kinds`` in the step before, on all ranks, to 1/128 nat; Rho-1
    takes that of the batch itself, which would depend on how a step is cut into chunks and ranks. The first step keeps
    all, and while losses fall fast, less than the share is kept. A ``reference`` reads every micro-step beside the
    student: about a third more work at equal size, and its parameters in memory. With ``channel`` it has read every
    document once, before training (``score``); its nll is then rounded to 16 bits, by up to 1/2048 of itself.
    """

    Options: ClassVar[type[BaseModel]] = ExcessLossOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        super().__init__(config, kinds, seed)
        self.reference, self.reference_channel = self.options.reference, self.options.channel
        self.observe = None if self.options.share is None else self.count
        self._restored = float("-inf")
        self._threshold: torch.Tensor | None = None  # on the device, never read by the host while training
        self._histogram: torch.Tensor | None = None  # (BINS,) int64: excess losses of this step, this rank

    @cached_property
    def dynamic(self) -> Multiplier:  # type: ignore[override]  # made when torch is there
        from tracestill.kernels.loss import Excess

        return Excess(self.options.threshold) if self.options.share is None else self.above_quantile

    @classmethod
    def reads(cls, options: Any) -> tuple[str, ...]:
        return () if options.channel is None else (options.channel,)

    def above_quantile(
        self,
        nll: torch.Tensor,  # (C,)
        p: torch.Tensor,
        entropy: torch.Tensor,
        reference: torch.Tensor,  # (C,)
    ) -> torch.Tensor:
        self._on(nll.device)
        assert self._threshold is not None
        return (nll - reference >= self._threshold).to(nll.dtype)

    def count(self, nll: torch.Tensor, p: torch.Tensor, entropy: torch.Tensor, reference: torch.Tensor) -> None:
        """Add the excess losses of C rows, each (C,), to the histogram."""
        import torch

        self._on(nll.device)
        assert self._histogram is not None
        excess = nll - reference
        finite = torch.isfinite(excess)  # a step with any other is skipped, and its rows teach no quantile
        bins = torch.where(finite, (excess + REACH) * (BINS / (2 * REACH)), 0.0).floor().clamp(0, BINS - 1).long()
        self._histogram.index_add_(0, bins, finite.long())

    def end_step(self) -> None:
        """The threshold of the next step. All ranks take part, also one that saw no token."""
        import torch
        import torch.distributed as dist

        if self.options.share is None or self._histogram is None:
            return
        assert self._threshold is not None
        if dist.is_initialized():
            dist.all_reduce(self._histogram)
        above = self._histogram.flip(0).cumsum(0).flip(0)  # (BINS,) how many lie in this bin or a higher one
        last = (above >= self.options.share * above[0]).sum() - 1  # the highest bin from which on there are enough
        edge = torch.where(last > 0, last * (2 * REACH / BINS) - REACH, -torch.inf)
        self._threshold = torch.where(above[0] > 0, edge.float(), self._threshold)
        self._histogram.zero_()

    def state(self) -> dict[str, Any]:
        """The threshold, as text: JSON has no infinity. Waits for the device."""
        if self.options.share is None:
            return {}
        return {"threshold": repr(self._restored if self._threshold is None else float(self._threshold))}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self._restored, self._threshold, self._histogram = float(state.get("threshold", "-inf")), None, None

    def _on(self, device: torch.device) -> None:
        import torch

        if self._threshold is None:
            self._threshold = torch.full((), self._restored, dtype=torch.float32, device=device)
            self._histogram = torch.zeros(BINS, dtype=torch.int64, device=device)
