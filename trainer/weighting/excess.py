"""``excess_loss``, a built-in weighting that reads the model: by how much a reference model predicts a token better.

    f_i = 1 if e_i > threshold else 0        e_i = nll_i - nll_i of the reference

Each of ``kinds`` is one pool, of all targets whose most specific name it is; without them all targets are one. Like
``dft``'s these factors act inside the loss kernel and never enter c. torch is imported when it is first used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import BaseModel, Field, model_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels.named import split
from tracestill.data_pipeline.guards.names import Name
from tracestill.trainer.weighting.base import Document, MultiplierOptions
from tracestill.trainer.weighting.by_kind import SpanWeighting
from tracestill.trainer.weighting.by_token import uniform
from tracestill.trainer.weighting.channel_options import Limits
from tracestill.trainer.weighting.weighting import WeightingConfig

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tracestill.kernels.loss import Multiplier

BINS = 4096
REACH = 16.0  # nats; bins span [-REACH, REACH), 1/128 nat each, and the outermost hold the rest
BELOW_1 = np.float32(1 - 2**-24)  # the largest float32 there


class ExcessLossOptions(Limits, MultiplierOptions):
    kinds: tuple[str, ...] | None = Field(
        None,
        min_length=1,
        description="kinds or groups that it acts on, each a pool of its own; the others keep their plain loss; null: "
        "all, as one pool",
    )
    reference: Name | None = Field(
        None, description="directory of a model with the student's tokenizer, such as a run's export"
    )
    channel: Name | None = Field(None, description="or SCORER.nll of `score`: what such a model said is read from disk")
    control: bool = Field(
        False, description="of a share: as large a part of each pool at random, in place of that of largest excess"
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> ExcessLossOptions:
        if len(self.limited) != 1:
            raise ValueError("give exactly one of threshold and share")
        if self.control and self.share is None:
            raise ValueError("control: how many tokens a threshold keeps depends on the student; give it a share")
        given = [name for name in ("reference", "channel") if getattr(self, name) is not None]
        if len(given) > 1 or not (given or self.control):
            raise ValueError("give exactly one of reference and channel")
        if self.channel is not None and split(self.channel)[1] != "nll":
            raise ValueError(f"channel: an excess is one over an nll, not over '{self.channel}'")
        return self


class ExcessLoss(SpanWeighting):
    """Only tokens count that a reference model, trained on good data, predicts better than the student does.

        e_i = nll_i - nll_i of the reference        f_i = 1 if e_i > threshold else 0

    Selective language modeling of Rho-1 (Lin and others, arXiv 2404.07965). With ``share`` the threshold of a step and
    a pool is the quantile of e over the pool's weighted tokens in the step before, on all ranks, to 1/128 nat; Rho-1
    takes that of the batch itself, which would depend on how a step is cut into chunks and ranks. The first step keeps
    all, and while losses fall fast, less than the share is kept. A ``reference`` reads every micro-step beside the
    student: about a third more work at equal size, and its parameters in memory. With ``channel`` it has read every
    document once, before training (``score``); its nll is then rounded to 16 bits, by up to 1/2048 of itself.

    The ``control`` keeps the share of each pool by ``random_drop``'s hash of (seed, document, position, step), and
    reads no reference. Its factors, too, never enter c: it parts from the choice in nothing but which tokens it takes.
    """

    Options: ClassVar[type[BaseModel]] = ExcessLossOptions

    def __init__(self, config: WeightingConfig, kinds: Kinds, seed: int = 0) -> None:
        super().__init__(config, kinds, seed)
        options = self.options
        self.pools = {"": [*range(len(kinds))]} if options.kinds is None else kinds.decided(options.kinds)
        self.pool_of_kind = np.zeros(len(kinds), np.int64)
        for pool, ids in enumerate(self.pools.values()):
            self.pool_of_kind[ids] = pool
        if options.control:
            self.given = self.drawn
        else:
            self.reference, self.reference_channel = options.reference, options.channel
        self.learns = options.share is not None and not options.control  # its thresholds, from the step before
        self.observe = self.count if self.learns else None
        self.now = 0  # step
        self._restored: list[float] = [-np.inf] * len(self.pools)
        self._thresholds: Tensor | None = None  # (P,) float32; on the device, never read by the host while training
        self._histogram: Tensor | None = None  # (P * BINS,) int64: excess losses of this step, this rank
        self._of_recipe: tuple[list[float], Tensor] | None = None
        self._on_device: Tensor | None = None  # (K,) pool_of_kind

    @cached_property
    def dynamic(self) -> Multiplier:  # type: ignore[override]  # made when torch is there
        from tracestill.kernels.loss import Excess

        options = self.options
        if isinstance(options.threshold, float):
            return Excess(options.threshold)  # which the kernel knows
        return Kept(self, by_kind=len(self.pools) > 1)

    @classmethod
    def reads(cls, options: Any) -> tuple[str, ...]:
        return () if options.channel is None or options.control else (options.channel,)

    def drawn(self, document: Document, step: int) -> np.ndarray:
        found = uniform(self.seed, document.index, step, len(document.tokens))
        return np.minimum(found.astype(np.float32), BELOW_1)

    def keeps(self, nll: Tensor, other: Tensor, kinds: Tensor | None) -> Tensor:
        """(C,) bool. ``other``: (C,) the reference's nll, or numbers drawn in [0, 1)."""
        import torch

        if self.learns:
            self._on(nll.device)
            limits = self._thresholds
        else:
            limits = self.limits("threshold" if self.options.share is None else "share", nll.device)
        assert limits is not None
        limit = limits[self.pool(kinds, nll.device)]
        if self.options.control:
            return other < limit
        return torch.ge(nll - other, limit) if self.learns else torch.gt(nll - other, limit)

    def count(self, nll: Tensor, p: Tensor, entropy: Tensor, reference: Tensor, kinds: Tensor | None = None) -> None:
        """Add the excess losses of C rows, each (C,), to the histogram."""
        import torch

        self._on(nll.device)
        assert self._histogram is not None
        excess = nll - reference
        finite = torch.isfinite(excess)  # a step with any other is skipped, and its rows teach no quantile
        bins = torch.where(finite, (excess + REACH) * (BINS / (2 * REACH)), 0.0).floor().clamp(0, BINS - 1).long()
        self._histogram.index_add_(0, bins + BINS * self.pool(kinds, nll.device), finite.long())

    def end_step(self) -> None:
        """The thresholds of the next step. All ranks take part, also one that saw no token."""
        import torch
        import torch.distributed as dist

        self.now += 1
        if self._histogram is None and self.device is not None and self.learns:
            self._on(self.device)
        if self._histogram is None:
            return
        assert self._thresholds is not None
        if dist.is_initialized():
            dist.all_reduce(self._histogram)
        share = self.limits("share", self._histogram.device).double().unsqueeze(1)
        above = self._histogram.view(-1, BINS).flip(1).cumsum(1).flip(1)  # how many lie in this bin or a higher one
        last = (above >= share * above[:, :1]).sum(1) - 1  # the highest bin from which on there are enough
        edges = torch.where(last > 0, last * (2 * REACH / BINS) - REACH, -torch.inf)
        edges = torch.where(share.squeeze(1) > 0, edges, torch.inf).float()
        self._thresholds = torch.where(above[:, 0] > 0, edges, self._thresholds)
        self._histogram.zero_()

    def state(self) -> dict[str, Any]:
        """The step and the thresholds of the pools, as text: JSON has no infinity. Waits for the device."""
        if not isinstance(self.dynamic, Kept):
            return {}
        found = self._restored if self._thresholds is None else self._thresholds.tolist()
        return {"step": self.now, "thresholds": [repr(float(one)) for one in found]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.now = int(state.get("step", 0))
        self._restored = [float(one) for one in state.get("thresholds", ["-inf"] * len(self.pools))]
        self._thresholds, self._histogram = None, None

    def limits(self, field: str, device: torch.device) -> Tensor:
        """(P,) float32: the recipe's share or threshold of each pool, now."""
        import torch

        numbers = [self.options.number(field, name, self.now) for name in self.pools]
        if self._of_recipe is None or self._of_recipe[0] != numbers:
            self._of_recipe = numbers, torch.tensor(numbers, dtype=torch.float32).to(device, non_blocking=True)
        return self._of_recipe[1]

    def pool(self, kinds: Tensor | None, device: torch.device) -> Tensor | int:
        """(C,) the pool of each row; one number where there is only one."""
        import torch

        if kinds is None:
            return 0
        if self._on_device is None:
            self._on_device = torch.from_numpy(self.pool_of_kind).to(device)
        return self._on_device[kinds.long()]

    def _on(self, device: torch.device) -> None:
        import torch

        if self._thresholds is None:
            self._thresholds = torch.tensor(self._restored, dtype=torch.float32).to(device)
            self._histogram = torch.zeros(len(self.pools) * BINS, dtype=torch.int64, device=device)


@dataclass(frozen=True)
class Kept:
    """The multiplier of a weighting whose thresholds change, or differ by kind."""

    of: ExcessLoss
    by_kind: bool

    def __call__(self, nll: Tensor, p: Tensor, entropy: Tensor, other: Tensor, kinds: Tensor | None = None) -> Tensor:
        return self.of.keeps(nll, other, kinds).to(nll.dtype)
