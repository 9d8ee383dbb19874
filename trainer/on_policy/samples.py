"""The steps of a refresh: its documents packed by the planner, and weighed by the teacher, or by their advantage.

    teacher   L = sum_i v_i d_i r_i D_i          D_i: the divergence of student and teacher, with the rest of the mass
    none      L = sum_i w_i c_i r_i A_i nll_i    A_i: the advantage of i's text, as its answer is right or wrong

v, w: the weight of a token's kind; c, d: as ``weighting.normaliser`` has them; r_i: 1, or for texts older than
``max_lag`` the probability of i under the student as it is now over that when it was drawn, at most ``max_ratio``. r
and A are constants for autograd, and never enter c or d. The second one's gradient is that of policy gradients with
truncated importance sampling, of texts drawn at temperature 1.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.channels import Channels
from tracestill.data_pipeline.plan.plan import PlanConfig, Planner
from tracestill.data_pipeline.rounds.on_policy import OnPolicyConfig
from tracestill.kernels.loss import TeacherTopK
from tracestill.kernels.pack import PackedBatch
from tracestill.trainer.batches.batches import Batches, MicroStep
from tracestill.trainer.batches.teacher import Teacher, label_places
from tracestill.trainer.evaluation.asking import key_of
from tracestill.trainer.on_policy.texts import STAGE, Texts
from tracestill.trainer.recipe.recipe import Recipe
from tracestill.trainer.weighting import TargetWeights
from tracestill.trainer.weighting.by_teacher import TOPK, DistilConfig
from tracestill.trainer.weighting.target_weights import PackWeights


class Samples(Batches):
    """Steps that learn from what was written last, in the place of those of a plan of the run."""

    def __init__(self, like: Batches, own: OnPolicyConfig, recipe: Recipe, vocabulary: int) -> None:
        """``like``: the run's own, whose place among the ranks this takes."""
        vars(self).update(vars(like))
        self.own, self.recipe, self.vocabulary = own, recipe, vocabulary
        self.first, self.texts = 0, Texts(like.store, [], {}, "")
        self.advantage: np.ndarray | None = None  # (D,) float32, of each document

    def renew(self, texts: Texts, channels: Channels | None, number: int) -> None:
        """Go on with refresh ``number``. ``channels``: what the teacher says of its documents; None: there is none."""
        recipe, own, store = self.recipe, self.own, texts.store
        self.first, self.texts, self.store = number * own.refresh, texts, store
        self.weights = TargetWeights(store, self.weights.weighting, recipe.weighting.normaliser)
        self.teacher, self.advantage = None, None
        if channels is None:
            right = np.array([row["correct"] for row in texts.rows])
            self.advantage = np.where(right, own.advantage.right, own.advantage.wrong).astype(np.float32)
        else:
            self.teacher = teacher_of(texts, channels, recipe, own, self.vocabulary)
        shape = recipe.plan.model_dump(include={"capacity", "packs_per_step", "group", "balance"})
        seed = key_of(STAGE, "plan", str(recipe.seed), str(number)) >> 1
        planner = Planner(store.lengths, PlanConfig(**shape), seed=seed)
        self.begin(functools.cache(planner.plan))

    def go_to(self, step: int) -> int:
        return super().go_to(step - self.first)

    def holds(self, step: int) -> bool:
        return step - self.first < self.own.refresh

    def unread(self, steps: int) -> int:
        """How many documents none of the refresh's ``steps`` steps reads."""
        if steps >= self.plan.n_steps:
            return 0
        return len(self.store) - sum(len(pack) for step in range(steps) for pack in self.plan.step(step))

    def row(
        self, documents: np.ndarray, weights: PackWeights, taught: PackWeights | None, step: int
    ) -> tuple[PackedBatch, TeacherTopK | None]:
        row, entries = super().row(documents, weights, taught, step)
        if self.advantage is not None:
            each = np.repeat(self.advantage[documents], self.store.lengths[documents])
            row = replace(row, reference_nll=self.laid(each, documents, row))
        return row, entries

    def laid(self, values: np.ndarray, documents: np.ndarray, row: PackedBatch) -> Tensor:
        """(T,) float32: of each label of a pack's row, its token's part of ``values`` (n,); 0 where there is none."""
        _, kinds, offsets, _ = self.store.gather(documents)
        length = len(row.labels)
        places = label_places(kinds, offsets, length * self.parts)[self.part * length : (self.part + 1) * length]
        found = np.zeros(length, np.float32)
        found[places >= 0] = values[places[places >= 0]]
        return torch.from_numpy(found).to(self.device, non_blocking=True)

    def ratio(self, micro: MicroStep, now: Tensor) -> Tensor:
        """(T,) r of a micro-step's labels, of their nll (T,) as it is ``now``; 1 of rows that are not looked at."""
        then = np.concatenate([np.zeros(0, np.float32), *(self.texts.then(d) for d in micro.documents.tolist())])
        drawn = torch.zeros_like(now, dtype=torch.bool)
        drawn[micro.packed.active] = True
        before = self.laid(then, micro.documents, micro.packed)
        return torch.where(drawn & (before > 0), (before - now).exp().clamp(max=self.own.max_ratio), 1.0)


def corrected(micro: MicroStep, ratio: Tensor) -> MicroStep:
    """The micro-step with its weights times r (T,)."""
    if micro.teacher is not None:
        return replace(micro, teacher=replace(micro.teacher, weights=micro.teacher.weights * ratio))
    return replace(micro, packed=replace(micro.packed, loss_weight=micro.packed.loss_weight * ratio))


def teacher_of(texts: Texts, channels: Channels, recipe: Recipe, own: OnPolicyConfig, vocabulary: int) -> Teacher:
    """The teacher's term alone: the weights of kinds are those of ``weighting``."""
    config: dict[str, Any] = {"channel": f"{STAGE}.{TOPK}", "mix": 1.0, "divergence": own.divergence, "beta": own.beta}
    config |= {"weight": recipe.weighting.weights, "normaliser": recipe.weighting.normaliser}
    kinds: Kinds = recipe.span_kinds()
    return Teacher(texts.store, DistilConfig(**config), kinds, channels, vocabulary)
