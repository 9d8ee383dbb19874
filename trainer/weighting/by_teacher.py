"""The teacher's term of the loss: the ``distil`` block of a recipe, and what each target weighs in it.

    L   = (1 - mix) * sum_i w_i c_i f_i nll_i  +  mix * sum_i v_i d_i D_i       over all targets of one optimizer step
    v_i = weight(kind_i, step) * record weight of i's document * (1 if the channel has an entry for i, else 0)
    d     follows from v as c from w, by the block's own normaliser
    D_i   the divergence from the channel's top-k, see ``tracestill.kernels.loss.TeacherTopK``

A target without an entry carries no weight of the teacher's, and does not enter d. Imports no torch, so that a recipe
is checked at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.channels.named import split
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.trainer.weighting.base import Document, Weighting
from tracestill.trainer.weighting.schedule import Schedule, at, read_weight
from tracestill.trainer.weighting.target_weights import TargetWeights
from tracestill.trainer.weighting.weighting import NormaliserName, normaliser_field

TOPK, IDS, LOG_PROBS = "topk", "topk_ids", "topk_logprobs"  # in a recipe, and its two channels
TEMPERATURE = (
    "only 1 is possible: a channel holds the k largest probabilities and one number for all the rest, which does not "
    "say what they would be at another temperature"
)


class DistilConfig(BaseModel):
    """The ``distil`` block of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    channel: Name = Field(description="whose distribution is followed: SCORER.topk, of the score block")
    divergence: Literal["forward", "reverse", "jsd"] = Field(
        "forward", description="forward: KL(teacher || student); reverse: KL(student || teacher); jsd: between the two"
    )
    beta: float = Field(0.5, gt=0, lt=1, description="jsd only: the teacher's share of the mean of both")
    weight: dict[str, float | Schedule] = Field(
        {"prompt": 0.0},
        description="weight of each kind or group in the teacher's term, or its schedule, apart from "
        "weighting.weights; a kind's own name wins; what is not named weighs 1, pad 0",
    )
    mix: float | Schedule = Field(
        0.5, description="the teacher's share of the loss, or its schedule: the label's term is multiplied by 1 - mix"
    )
    normaliser: NormaliserName = normaliser_field()
    temperature: float = Field(1.0, description="of both distributions; 1, as the channel's")

    @field_validator("channel")
    @classmethod
    def _of_a_scorer(cls, channel: str) -> str:
        if split(channel)[1] != TOPK:
            raise ValueError(f"'{channel}' is no distribution; expected SCORER.{TOPK}, such as teacher.{TOPK}")
        return channel

    @field_validator("weight", mode="before")
    @classmethod
    def _numbers_or_schedules(cls, weight: Any) -> Any:
        if not isinstance(weight, Mapping):
            return weight
        return {name: read_weight(value, f"weight of '{name}'") for name, value in weight.items()}

    @field_validator("mix", mode="before")
    @classmethod
    def _share(cls, mix: Any) -> Any:
        read = read_weight(mix, "mix")
        if (highest := max(values_of(read))) > 1:
            raise ValueError(f"mix reaches {highest:g}; expected at most 1")
        if not any(values_of(read)):
            raise ValueError("mix is 0, so that the teacher has no part in the loss; leave out the block")
        return read

    @field_validator("temperature")
    @classmethod
    def _one(cls, temperature: float) -> float:
        if temperature != 1:
            raise ValueError(TEMPERATURE)
        return temperature

    @model_validator(mode="after")
    def _of_its_divergence(self) -> DistilConfig:
        if self.beta != 0.5 and self.divergence != "jsd":
            raise ValueError(f"beta is for divergence: jsd, not {self.divergence}; leave it out")
        return self

    @property
    def scorer(self) -> str:
        return split(self.channel)[0]

    def mix_at(self, step: int) -> float:
        return at(self.mix, step)

    def table(self, kinds: Kinds, step: int) -> np.ndarray:
        """(K,) float32. Raises ValueError naming the nearest known kind for one that is not known."""
        return kinds.table({name: at(weight, step) for name, weight in self.weight.items()}, default=1.0)

    def check(self, kinds: Kinds) -> None:
        """Raise ValueError for a kind that is not known, and if none has a weight."""
        try:
            found = np.stack([self.table(kinds, step) for step in self.corners()])
        except ValueError as error:
            raise ValueError(f"weight: {error}") from error
        if not found[:, 1:].any():
            raise ValueError("weight: no kind has any; leave out the block, or give one a weight")

    def weighs(self, kinds: Kinds, name: str) -> bool:
        """Whether a kind has a weight in the teacher's term at some step."""
        return any(self.table(kinds, step)[kinds.id(name)] > 0 for step in self.corners())

    def corners(self) -> list[int]:
        """Steps at which some weight begins or ceases to change, 0 among them."""
        return sorted({0, *(s for w in self.weight.values() if isinstance(w, Schedule) for s in w.corners())})


def values_of(weight: float | Schedule) -> list[float]:
    """Numbers between which all others of it lie."""
    return [at(weight, step) for step in weight.corners()] if isinstance(weight, Schedule) else [weight]


class TeacherWeighting(Weighting):
    """v without the record's weight: by kind, and 0 where the channel has no entry."""

    def __init__(self, config: DistilConfig, kinds: Kinds, channels: Channels) -> None:
        """Raises InputError if the channels hold no top-k."""
        for name in (IDS, LOG_PROBS):
            channels.channel(name)
        self.config, self.span_kinds, self.channels = config, kinds, channels

    def kinds(self, step: int) -> np.ndarray:
        return self.config.table(self.span_kinds, step) * np.float32(self.config.mix_at(step) > 0)

    def tokens(self, document: Document, step: int) -> np.ndarray:
        return (self.channels.of(IDS, document.index)[:, 0] >= 0).astype(np.float32)  # the first is the most probable

    def named(self) -> list[str]:
        return list(self.config.weight)


class BothTerms(Weighting):
    """What either term makes of a token: (1 - mix) w + mix v. What ends documents is learnt if this is not 0."""

    def __init__(self, label: Weighting, teacher: TeacherWeighting, store: TokenStore) -> None:
        self.terms = TargetWeights(store, label), TargetWeights(store, teacher)
        self.mix_at = teacher.config.mix_at

    def kinds(self, step: int) -> np.ndarray:
        return np.ones(len(self.terms[0].store.kind_names), np.float32)

    def tokens(self, document: Document, step: int) -> np.ndarray:
        label, teacher = (
            term.table(step)[document.kinds] * (term.tokens(document.index, step) if term.by_token else 1)
            for term in self.terms
        )
        mix = self.mix_at(step)
        return ((1 - mix) * label + mix * teacher).astype(np.float32)

    def named(self) -> list[str]:
        return [name for term in self.terms for name in term.weighting.named()]


def learnt_by(label: Weighting, teacher: TeacherWeighting | None, store: TokenStore) -> Weighting:
    """What a token weighs in all terms of the loss together."""
    return label if teacher is None else BothTerms(label, teacher, store)
