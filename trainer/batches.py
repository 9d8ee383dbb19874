"""From the plan to the micro-steps of one rank: which documents, packed how, with which factor c."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from tracestill.data_pipeline.plan import Plan, schedule
from tracestill.data_pipeline.store import TokenStore
from tracestill.kernels.pack import PackedBatch, pack
from tracestill.trainer.weighting import Weighting, weight_sum

ROW_MULTIPLE = 128  # rows are padded to it: friendly to matmuls, and an empty pack is one such row


@dataclass(frozen=True)
class MicroStep:
    """One forward and backward of one rank."""

    packed: PackedBatch
    scale: float  # c, the same for every micro-step of a step
    documents: np.ndarray  # (D,) ids in the token store


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it."""

    micro: list[MicroStep]  # equally many on every rank
    weight_sum: float  # sum of w over all ranks; 0.0 means that nothing may change
    tokens: int  # of all ranks
    documents: np.ndarray  # (D,) ids in the token store, of all ranks


class Batches:
    """Steps of a run for one rank; random access, so that resuming needs no replay."""

    def __init__(
        self,
        store: TokenStore,
        plan_of_epoch: Callable[[int], Plan],
        weighting: Weighting,
        *,
        rank: int,
        ranks: int,
        pad_id: int,
        device: torch.device,
    ) -> None:
        self.store = store
        self.plan_of_epoch = plan_of_epoch
        self.weighting = weighting
        self.rank, self.ranks = rank, ranks
        self.pad_id = pad_id
        self.device = device
        self.epoch, self.plan = 0, plan_of_epoch(0)
        self.steps_per_epoch = self.plan.n_steps

    @property
    def accumulation(self) -> int:
        """Micro-steps in a step: ceil(packs_per_step / ranks)."""
        return -(-self.plan.packs_per_step // self.ranks)

    def step(self, step: int) -> Step:
        """Everything this rank needs for optimizer step ``step`` (from 0)."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, self.plan_of_epoch(epoch)
        table = self.weighting.kinds(step)
        slots = schedule(self.plan, within, self.ranks)  # (accumulation, ranks) pack ids, -1 = empty
        whole = np.concatenate([np.zeros(0, np.int64), *(self.plan.pack(p) for p in slots.ravel() if p >= 0)])
        total = weight_sum(self.store.counts[whole], self.store.weights[whole], table)
        scale = 1.0 / total if total > 0 else 0.0
        micro = [self.micro_step(int(pack_id), table, scale) for pack_id in slots[:, self.rank]]
        return Step(micro, total, int(self.store.lengths[whole].sum()), whole)

    def micro_step(self, pack_id: int, table: np.ndarray, scale: float) -> MicroStep:
        documents = self.plan.pack(pack_id) if pack_id >= 0 else np.zeros(0, np.int64)
        tokens, kinds, offsets, weights = self.store.gather(documents)
        packed = row_of(tokens, kinds, offsets, weights, table, self.pad_id, self.device)
        return MicroStep(packed, scale, documents)


def row_of(
    tokens: np.ndarray,  # (n,) int32
    kinds: np.ndarray,  # (n,) uint8
    offsets: np.ndarray,  # (D + 1,)
    weights: np.ndarray,  # (D,) float32
    table: np.ndarray,  # (K,) float32
    pad_id: int,
    device: torch.device,
) -> PackedBatch:
    """Documents packed into one row, padded to a multiple of ROW_MULTIPLE; no document gives a row of padding."""
    length = max(ROW_MULTIPLE, -(-len(tokens) // ROW_MULTIPLE) * ROW_MULTIPLE)
    return pack(tokens, kinds, offsets, weights, table, length=length, pad_id=pad_id, device=device)
