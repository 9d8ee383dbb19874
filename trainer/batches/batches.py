"""From the plan to the micro-steps of one rank: which documents, packed how, with which factor c."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from tracestill.data_pipeline.plan.plan import Plan, schedule
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.pack import PackedBatch, pack, to_device
from tracestill.trainer.batches.work import Work, work_of
from tracestill.trainer.ranks.mesh import cut
from tracestill.trainer.weighting import Document, TokenFunction, Weighting, table_at, token_function
from tracestill.trainer.weighting import normaliser as norm

ROW_MULTIPLE = 128  # rows are padded to it: friendly to matmuls, and an empty pack is one such row


@dataclass(frozen=True)
class MicroStep:
    """One forward and backward of one rank. A target's w * c is its ``packed.loss_weight`` times ``scale``."""

    packed: PackedBatch
    scale: float | torch.Tensor  # the same for every micro-step of a step; a 0-dim tensor if it was all-reduced
    documents: np.ndarray  # (D,) ids in the token store


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it."""

    micro: list[MicroStep]  # equally many on every rank
    weight_sum: float | None  # sum of w over all ranks; 0.0: nothing may change; None: only the device knows
    work: Work
    documents: np.ndarray  # (D,) ids in the token store, of all ranks
    epoch: int


class Batches:
    """Steps of a run for one rank; random access, so that resuming needs no replay."""

    def __init__(
        self,
        store: TokenStore,
        plan_of_epoch: Callable[[int], Plan],
        weighting: Weighting,
        *,
        normaliser: str = "weights",
        rank: int,
        ranks: int,
        pad_id: int,
        device: torch.device,
        group: dist.ProcessGroup | None = None,
        part: int = 0,
        parts: int = 1,
        make_row: Callable[..., PackedBatch] | None = None,
    ) -> None:
        """``rank`` of ``ranks`` counts those that read different packs; ``group`` holds them (None: all). Of its rows
        this one gets the ``part``-th of ``parts`` equal runs of tokens. ``make_row`` lays documents out as the student
        reads them (see ``rectangles.layout_for``); None: ``row_of``."""
        self.store = store
        self.plan_of_epoch = plan_of_epoch
        self.weighting, self.normaliser = weighting, normaliser
        self.tokens = token_function(weighting)
        self.may_vanish = hasattr(weighting, "dynamic")  # its factors may all be 0, which only the device knows
        self.rank, self.ranks, self.group = rank, ranks, group
        self.part, self.parts = part, parts
        self.make_row: Callable[..., PackedBatch] = make_row or row_of
        self.pad_id = pad_id
        self.device = device
        self.epoch, self.plan = 0, plan_of_epoch(0)
        self.steps_per_epoch = self.plan.n_steps

    @property
    def accumulation(self) -> int:
        """Micro-steps in a step: ceil(packs_per_step / ranks)."""
        return -(-self.plan.packs_per_step // self.ranks)

    def step(self, step: int) -> Step:
        """Everything this rank needs for optimizer step ``step`` (from 0).

        If the weighting has ``tokens``, every rank must call this for the same steps in the same order: the sums
        in c come from one all-reduce, which runs while rows are packed and which the host never reads.
        """
        epoch, within = divmod(step, self.steps_per_epoch)
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, self.plan_of_epoch(epoch)
        slots = schedule(self.plan, within, self.ranks)  # (accumulation, ranks) pack ids, -1 = empty
        packs = [self.plan.pack(int(pack_id)) for pack_id in slots.ravel()]
        whole = np.concatenate([np.zeros(0, np.int64), *packs])
        counts = np.array([len(documents) for documents in packs]).reshape(slots.shape)
        mine = [self.plan.pack(int(pack_id)).astype(np.int64) for pack_id in slots[:, self.rank]]
        table = table_at(self.weighting, step, len(self.store.kind_names))
        if self.tokens is None:
            micro, weight_sum = self.known(mine, whole, table)
        else:
            micro, weight_sum = self.reduced(mine, table, step, self.tokens), None
        work = work_of(self.store.lengths[whole], counts, partial(row_length, parts=self.parts))
        if self.make_row is not row_of:
            work = replace(work, positions=self.laid_out(micro, work))
        return Step(micro, weight_sum, work, whole, epoch)

    def laid_out(self, micro: list[MicroStep], work: Work) -> int:
        """Positions that a step computes if all ranks' packs are padded as this rank's are."""
        tokens = sum(int(self.store.lengths[one.documents].sum()) for one in micro)
        return round(work.tokens * sum(one.packed.positions for one in micro) / tokens) if tokens else work.positions

    def known(
        self, mine: list[np.ndarray], whole: np.ndarray, table: np.ndarray
    ) -> tuple[list[MicroStep], float | None]:
        """Micro-steps where c follows from the counts of kinds; and the sum of w, if that decides the step."""
        counts, records = self.store.counts[whole], self.store.weights[whole]
        found = norm.sums(self.normaliser, counts, counts, records, table)
        shared = norm.factor(self.normaliser, torch.from_numpy(found), table).numpy()
        scale = 1.0 if shared.ndim else float(shared)
        by_kind = table * shared if shared.ndim else table  # float64, rounded by ``pack``
        micro = []
        for documents in mine:
            own = norm.own_factors(self.normaliser, self.store.counts[documents], table)
            micro.append(MicroStep(self.row(documents, by_kind, own), scale, documents))
        total = norm.weight_sum(counts, records, table)
        return micro, None if self.may_vanish and total > 0 else total

    def reduced(self, mine: list[np.ndarray], table: np.ndarray, step: int, tokens: TokenFunction) -> list[MicroStep]:
        """Micro-steps where c needs the token weights of other ranks."""
        weights = [[tokens(document_of(self.store, int(d)), step) for d in documents] for documents in mine]
        counted = [count_targets(self.store, *pair) for pair in zip(mine, weights, strict=True)]
        parts = [
            norm.sums(self.normaliser, amount, count, self.store.weights[documents], table)
            for documents, (amount, count) in zip(mine, counted, strict=True)
        ]
        total = torch.from_numpy(np.sum(parts, axis=0)).to(self.device, non_blocking=True)
        pending = None
        if dist.is_initialized() and self.ranks > 1:
            pending = dist.all_reduce(total, group=self.group, async_op=True)
        rows = []
        for documents, own_weights, (amount, _) in zip(mine, weights, counted, strict=True):
            own = norm.own_factors(self.normaliser, amount, table)
            rows.append(self.row(documents, table, own, np.concatenate([np.zeros(0, np.float32), *own_weights])))
        if pending is not None:
            pending.wait()  # on a GPU the stream waits, not the host
        shared = norm.factor(self.normaliser, total, table)
        if shared.ndim:
            by_kind = shared.float()
            rows = [replace(row, loss_weight=row.loss_weight * by_kind[row.kinds.long()]) for row in rows]
            shared = torch.ones_like(total[0])
        return [MicroStep(row, shared.float(), documents) for row, documents in zip(rows, mine, strict=True)]

    def row(
        self,
        documents: np.ndarray,  # (D,)
        table: np.ndarray,  # (K,)
        own: np.ndarray,  # (D,) float64: factor of each record's weight
        token_weights: np.ndarray | None = None,  # (n,) float32
    ) -> PackedBatch:
        tokens, kinds, offsets, records = self.store.gather(documents)
        more = {"token_weights": token_weights, "part": self.part, "parts": self.parts}
        return self.make_row(tokens, kinds, offsets, records * own, table, self.pad_id, self.device, **more)


def document_of(store: TokenStore, index: int) -> Document:
    """What a weighting may look at, as views of the store."""
    return Document(index, store.tokens(index), store.kinds(index), store.steps(index))


def count_targets(store: TokenStore, documents: np.ndarray, weights: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Per document and kind, (D, K) float64 each: the sum of its targets' token weights, and how many are not 0."""
    amount, count = (np.zeros((len(documents), len(store.kind_names))) for _ in range(2))
    for at, (document, weight) in enumerate(zip(documents.tolist(), weights, strict=True)):
        kinds = store.kinds(document)[1:]
        amount[at] = np.bincount(kinds, weights=weight[1:], minlength=amount.shape[1])
        count[at] = np.bincount(kinds, weights=weight[1:] != 0, minlength=count.shape[1])
    return amount, count


def row_length(tokens: int, parts: int = 1) -> int:
    """Positions of a row that holds ``tokens`` and is cut into ``parts``."""
    multiple = ROW_MULTIPLE * parts
    return max(multiple, -(-tokens // multiple) * multiple)


def row_of(
    tokens: np.ndarray,  # (n,) int32
    kinds: np.ndarray,  # (n,) uint8
    offsets: np.ndarray,  # (D + 1,)
    weights: np.ndarray,  # (D,)
    table: np.ndarray,  # (K,)
    pad_id: int,
    device: torch.device,
    token_weights: np.ndarray | None = None,  # (n,) float32
    *,
    part: int = 0,
    parts: int = 1,
) -> PackedBatch:
    """Documents packed into one row of which each of ``parts`` equal runs is padded to a multiple of ROW_MULTIPLE, and
    of it the ``part``-th run. No document gives a row of padding."""
    more = {"length": row_length(len(tokens), parts), "pad_id": pad_id, "token_weights": token_weights}
    if parts == 1:
        return pack(tokens, kinds, offsets, weights, table, device=device, **more)  # type: ignore[arg-type]
    row = pack(tokens, kinds, offsets, weights, table, device="cpu", **more)  # type: ignore[arg-type]
    return to_device(cut(row, part, parts), device)
