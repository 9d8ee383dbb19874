"""Options of `linear_cross_entropy`: what makes up a row's loss, and the multipliers that read the model.

A multiplier is a function of (nll, p, entropy) of C rows, each (C,), p being the target's probability, that
returns (C,) factors of the rows' weights, finite and >= 0 (`Given`: of either sign). If the caller gives a reference
model's nll, it is the function's fourth argument; one whose attribute `by_kind` is true also gets the rows' `kinds=`,
(C,) uint8. Factors are constants for autograd: they weigh a gradient, they are not differentiated.
The classes below are such functions, and the Triton pass has them built in; any other Python function works too,
at the price of one more pass over the logits on a GPU. Chunks are an accident of memory, so a function must treat
every row by itself. Rows of kinds that it does not multiply are NaN to it, whatever it returns for them: leaving them
out would make the host wait for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

Multiplier = Callable[..., Tensor]
"""(nll, p, entropy[, reference_nll][, kinds=]) -> factor, each (C,)."""

TAIL_FLOOR = 1e-6
"""Least probability that either model's tail counts with, in the teacher term."""


Divergence = Literal["forward", "reverse", "jsd"]


class Statistic(IntEnum):
    """Columns of the statistics of `linear_cross_entropy`, each summed over the weighted rows of a kind; the last four
    over the rows of non-zero teacher weight."""

    WEIGHT = 0  # w * c, of which the loss consists: what it would be if every target cost one nat
    WEIGHTED_NLL = 1  # w * c * f * nll: summed over kinds, and with WEIGHTED_DIVERGENCE, it is the loss
    COUNT = 2  # rows
    NLL = 3  # nats
    CORRECT = 4  # rows of which no logit is larger than the target's
    ENTROPY = 5  # nats
    TEACHER_WEIGHT = 6  # v * d, of which the teacher's term consists
    WEIGHTED_DIVERGENCE = 7  # v * d * D
    TEACHER_COUNT = 8  # rows
    DIVERGENCE = 9  # D, nats


@dataclass(frozen=True)
class PowerOfP:
    """p ** exponent. With exponent 1, dynamic fine-tuning (DFT, arXiv 2508.05629)."""

    exponent: float = 1.0

    def __call__(self, nll: Tensor, p: Tensor, entropy: Tensor, reference: Tensor | None = None) -> Tensor:
        return torch.exp(-self.exponent * nll)


@dataclass(frozen=True)
class Focal:
    """(1 - p) ** gamma, the modulating factor of the focal loss (arXiv 1708.02002), held constant."""

    gamma: float = 2.0

    def __call__(self, nll: Tensor, p: Tensor, entropy: Tensor, reference: Tensor | None = None) -> Tensor:
        return (1 - p) ** self.gamma


@dataclass(frozen=True)
class Excess:
    """1 where nll exceeds the reference model's by more than `threshold` nats, else 0 (Rho-1, arXiv 2404.07965).

    Rho-1 keeps the top share of a batch. A share of what happens to lie in one chunk or on one rank would depend on
    how the step was cut up, so here the threshold is given: take it from the quantile of earlier steps.
    """

    threshold: float = 0.0

    def __call__(self, nll: Tensor, p: Tensor, entropy: Tensor, reference: Tensor | None = None) -> Tensor:
        assert reference is not None
        return (nll - reference > self.threshold).to(nll.dtype)


@dataclass(frozen=True)
class Given:
    """What stands in the place of the reference model's nll is the factor itself, and may be negative: the advantage of
    policy gradients, whose sign no weight may have. 1 where nothing is given."""

    signed = True  # factors below 0 are meant

    def __call__(self, nll: Tensor, p: Tensor, entropy: Tensor, reference: Tensor | None = None) -> Tensor:
        return torch.ones_like(nll) if reference is None else reference.to(nll.dtype)


@dataclass(frozen=True)
class TeacherTopK:
    """The teacher's k largest log-probabilities of every row, and how much to follow them.

    With q the teacher's and p the student's probability of the k tokens, and each model's remaining mass taken as
    one more outcome (the tail, at least TAIL_FLOOR), a row's term is a divergence D of two distributions over k + 1
    outcomes:

        forward   KL(q || p)
        reverse   KL(p || q)
        jsd       beta KL(q || m) + (1 - beta) KL(p || m),  m = beta q + (1 - beta) p     (GKD, arXiv 2306.13649)

    Unlike a sum over the k tokens alone it is never negative and is least where student and teacher agree. Both
    distributions are those at temperature 1: what a tail would hold at another one, its one number does not say.
    A row without any entry has D = 0 and no gradient; give it no weight, which saves its products.

    Ids and log-probabilities are read as they are: 32 and 16 bits are enough.
    """

    ids: Tensor  # (N, k) int32 or int64 in [0, V), distinct within a row; -1: no entry, for rows of fewer than k
    log_probs: Tensor  # (N, k) natural logarithms, of any floating type; -inf or NaN: no entry
    weights: Tensor  # (N,) fp32, finite and >= 0: v, the term's weight, independent of the label's
    scale: float | Tensor = 1.0  # d, as the call's `scale` is c: a number, 0-dim, or (num_kinds,)
    divergence: Divergence = "forward"
    beta: float = 0.5  # jsd's, in (0, 1)

    def __post_init__(self) -> None:
        """Raise ValueError for a divergence that there is not."""
        if self.divergence not in get_args(Divergence):
            raise ValueError(f"divergence must be one of {get_args(Divergence)}, not {self.divergence!r}")
        if not 0 < self.beta < 1:
            raise ValueError(f"beta must lie in (0, 1), not {self.beta}; its ends are forward and reverse")


@dataclass(frozen=True)
class RowOptions:
    """What turns a row's logits into its loss."""

    logit_scale: float = 1.0
    softcap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    bias: Tensor | None = None  # (V,)
    dynamic: Multiplier | None = None
    divergence: Divergence = "forward"
    beta: float = 0.5

    def __post_init__(self) -> None:
        """Refuse values that have no meaning.  Raises ValueError."""
        if self.softcap is not None and not self.softcap > 0:
            raise ValueError(f"softcap must be > 0 or None, not {self.softcap}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must lie in [0, 1), not {self.label_smoothing}")
        if not self.z_loss >= 0:
            raise ValueError(f"z_loss must be >= 0, not {self.z_loss}")


class Rows(NamedTuple):
    """What is known of the C rows of a chunk beside their logits."""

    targets: Tensor  # (C,) int64
    weights: Tensor  # (C,) divided by a power of two, so that the largest is about 1
    reference_nll: Tensor | None  # (C,)
    teacher_ids: Tensor | None  # (C, k) int32 or int64
    teacher_log_probs: Tensor | None  # (C, k)
    teacher_weights: Tensor | None  # (C,) divided like `weights`
    multiplied: Tensor | None = None  # (C,) bool: rows that `dynamic` multiplies; None: all
    kinds: Tensor | None = None  # (C,) uint8, if `dynamic` asks for them

    def taken(self, index: Tensor) -> Rows:
        """The rows of an index."""
        return Rows(*(None if t is None else t.index_select(0, index) for t in self))  # type: ignore[arg-type]

    def part(self, part: slice) -> Rows:
        return Rows(*(None if t is None else t[part] for t in self))  # type: ignore[arg-type]


class Seen(NamedTuple):
    """What a pass over the logits found in its rows, each (C,), written by the pass; all but `top` in one buffer."""

    nll: Tensor  # -log p of the target
    correct: Tensor  # 1 where the target's logit is the row's maximum
    entropy: Tensor  # nats
    extra: Tensor  # what label smoothing and z-loss add to nll
    factor: Tensor  # what `dynamic` multiplies the weight by
    divergence: Tensor  # the teacher term before its weight
    top: Tensor | None = None  # int64, the first token of largest logit; None: nobody asks

    def part(self, part: slice) -> Seen:
        return Seen(*(None if t is None else t[part] for t in self))  # type: ignore[arg-type]


def multiplier(dynamic: Multiplier, seen: Seen, rows: Rows) -> Tensor:
    """(C,) factors. Raises ValueError for a wrong shape, and on a CPU for a negative or non-finite factor."""
    arguments = [seen.nll, torch.exp(-seen.nll), seen.entropy]
    if rows.reference_nll is not None:
        arguments.append(rows.reference_nll)
    if rows.multiplied is not None:
        arguments = [torch.where(rows.multiplied, seen_of, torch.nan) for seen_of in arguments]
    factor = dynamic(*arguments, **({} if rows.kinds is None else {"kinds": rows.kinds})).detach()
    if factor.shape != seen.nll.shape:
        raise ValueError(f"dynamic must return one factor a row, {tuple(seen.nll.shape)}, not {tuple(factor.shape)}")
    if rows.multiplied is not None:
        factor = torch.where(rows.multiplied, factor, 1.0)
    if not factor.is_cuda:
        check_weights(factor.abs() if getattr(dynamic, "signed", False) else factor, "factors of dynamic")
    return factor.to(seen.nll.dtype)


def check_weights(weights: Tensor, name: str = "weights") -> None:
    """Raise ValueError unless every weight is finite and >= 0; call it where weights are made (it waits for a GPU)."""
    bad = ~(torch.isfinite(weights) & (weights >= 0))
    if bool(bad.any()):
        row = int(bad.flatten().nonzero()[0])
        raise ValueError(f"{name} must be finite and >= 0, but row {row} holds {float(weights.flatten()[row])}")
