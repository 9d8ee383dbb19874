"""From the plan to the micro-steps of one rank: which documents, packed how, with which factor c."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
import torch.distributed as dist

from tracestill.data_pipeline.plan.plan import Plan, schedule
from tracestill.data_pipeline.tokens.store import TokenStore
from tracestill.kernels.loss import TeacherTopK
from tracestill.kernels.pack import PackedBatch, pack, to_device
from tracestill.trainer.batches.teacher import Teacher
from tracestill.trainer.batches.work import Work, work_of
from tracestill.trainer.ranks.mesh import cut
from tracestill.trainer.weighting import TargetWeights, Weighting
from tracestill.trainer.weighting.target_weights import PackWeights

ROW_MULTIPLE = 128  # rows are padded to it: friendly to matmuls, and an empty pack is one such row


@dataclass(frozen=True)
class MicroStep:
    """One forward and backward of one rank. A target's w * c is its ``packed.loss_weight`` times its ``scale``."""

    packed: PackedBatch
    scale: float | torch.Tensor  # a number, 0-dim if it was all-reduced, or (K,) one a kind; the same for a whole step
    documents: np.ndarray  # (D,) ids in the token store
    teacher: TeacherTopK | None = None  # of the row's T labels; its ``scale`` holds d and the teacher's share


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
        teacher: Teacher | None = None,
    ) -> None:
        """``rank`` of ``ranks`` counts those that read different packs; ``group`` holds them (None: all). Of its rows
        this one gets the ``part``-th of ``parts`` equal runs of tokens. ``make_row`` lays documents out as the student
        reads them (see ``rectangles.layout_for``); None: ``row_of``."""
        self.store = store
        self.weights = TargetWeights(store, weighting, normaliser)
        self.teacher = teacher
        self.rank, self.ranks, self.group = rank, ranks, group
        self.part, self.parts = part, parts
        self.make_row: Callable[..., PackedBatch] = make_row or row_of
        self.pad_id = pad_id
        self.device = device
        self.begin(plan_of_epoch)

    def begin(self, plan_of_epoch: Callable[[int], Plan]) -> None:
        """Take the plans of epochs from here."""
        self.plan_of_epoch = plan_of_epoch
        self.epoch, self.plan = 0, plan_of_epoch(0)
        self.begins = [0, self.plan.n_steps]  # the first step of each epoch that is known, and of the next one

    def holds(self, step: int) -> bool:
        """Whether ``step`` can be made now, before those that come before it have ended."""
        return True

    @property
    def accumulation(self) -> int:
        """Micro-steps in a step: ceil(packs_per_step / ranks)."""
        return -(-self.plan.packs_per_step // self.ranks)

    def step(self, step: int) -> Step:
        """Everything this rank needs for optimizer step ``step`` (from 0).

        If the weighting has ``tokens``, or there is a teacher, every rank must call this for the same steps in the
        same order: the sums in c and d come from an all-reduce, which runs while rows are packed and which the host
        never reads.
        """
        within = self.go_to(step)
        slots = schedule(self.plan, within, self.ranks)  # (accumulation, ranks) pack ids, -1 = empty
        packs = [self.plan.pack(int(pack_id)) for pack_id in slots.ravel()]
        whole = np.concatenate([np.zeros(0, np.int64), *packs])
        counts = np.array([len(documents) for documents in packs]).reshape(slots.shape)
        mine = [self.plan.pack(int(pack_id)).astype(np.int64) for pack_id in slots[:, self.rank]]
        micro, weight_sum = self.micro_steps(mine, whole, step)
        work = work_of(self.store.lengths[whole], counts, partial(row_length, parts=self.parts))
        if self.make_row is not row_of:
            work = replace(work, positions=self.laid_out(micro, work))
        return Step(micro, weight_sum, work, whole, self.epoch)

    def go_to(self, step: int) -> int:
        """Take the plan of the epoch that holds a step; the step's place in it. Epochs may differ in their steps."""
        while step >= self.begins[-1]:
            self.epoch = len(self.begins) - 1
            self.plan = self.plan_of_epoch(self.epoch)
            self.begins.append(self.begins[-1] + self.plan.n_steps)
        epoch = bisect.bisect_right(self.begins, step) - 1
        if epoch != self.epoch:
            self.epoch, self.plan = epoch, self.plan_of_epoch(epoch)
        return step - self.begins[epoch]

    def laid_out(self, micro: list[MicroStep], work: Work) -> int:
        """Positions that a step computes if all ranks' packs are padded as this rank's are."""
        tokens = sum(int(self.store.lengths[one.documents].sum()) for one in micro)
        return round(work.tokens * sum(one.packed.positions for one in micro) / tokens) if tokens else work.positions

    def micro_steps(self, mine: list[np.ndarray], whole: np.ndarray, step: int) -> tuple[list[MicroStep], float | None]:
        """Micro-steps of this rank's packs, and the sum of w of all ranks' documents, if that decides the step."""
        teacher, weights = self.teacher, self.weights
        mix = 0.0 if teacher is None else teacher.mix(step)
        table = weights.table(step) * np.float32(mix < 1)  # a term without a share does no work
        packs = [weights.of_pack(documents, step, table) for documents in mine]
        everything = None if weights.by_token else weights.of_pack(whole, step, table)
        c = self.shared_part(weights, packs, table, everything)
        taught: list[PackWeights | None] = [None] * len(mine)
        d: Callable[[], float | torch.Tensor] | None = None
        if teacher is not None and mix > 0:
            of_teacher = [teacher.weights.of_pack(documents, step) for documents in mine]
            d = self.shared_part(teacher.weights, of_teacher, teacher.weights.table(step))
            taught = [*of_teacher]
        rows = [self.row(*of, step) for of in zip(mine, packs, taught, strict=True)]
        scale, found = c() * (1 - mix), []
        scale_of_teacher = None if d is None else d() * mix
        for (row, entries), documents in zip(rows, mine, strict=True):
            if entries is not None:
                assert scale_of_teacher is not None
                entries = replace(entries, scale=scale_of_teacher)
            found.append(MicroStep(row, scale, documents, entries))
        if everything is None:
            return found, None
        total = everything.counted.weight
        # the factors of a multiplier may all be 0, and a teacher may have entries, which only the device knows
        unsure = total > 0 if weights.weighting.dynamic is not None else total == 0 and d is not None
        return found, None if unsure else total

    def shared_part(
        self,
        weights: TargetWeights,
        packs: list[PackWeights],
        table: np.ndarray,
        everything: PackWeights | None = None,
    ) -> Callable[[], float | torch.Tensor]:
        """The part of c that the step's targets share, given when it is asked for: a number, a 0-dim tensor, or (K,)
        one a kind. ``packs`` are this rank's; with ``everything``, those of all ranks, no rank asks another."""
        if everything is not None:
            known = torch.from_numpy(weights.shared(weights.sums(everything), table.astype(np.float64)))
            return lambda: float(known) if len(known) == 1 else known.float().to(self.device, non_blocking=True)
        sums = np.sum([weights.sums(pack) for pack in packs], axis=0)
        added, v = (torch.from_numpy(a).to(self.device, non_blocking=True) for a in (sums, table))
        pending = None
        if dist.is_initialized() and self.ranks > 1:
            pending = dist.all_reduce(added, group=self.group, async_op=True)

        def shared() -> torch.Tensor:
            if pending is not None:
                pending.wait()  # on a GPU the stream waits, not the host
            found = weights.shared(added, v.double()).float()
            return found[0] if len(found) == 1 else found

        return shared

    def row(
        self, documents: np.ndarray, weights: PackWeights, taught: PackWeights | None, step: int
    ) -> tuple[PackedBatch, TeacherTopK | None]:
        """A pack's row at a step, and what the teacher says of its labels if it has a part in them."""
        tokens, kinds, offsets, _ = self.store.gather(documents)
        place = {"part": self.part, "parts": self.parts}
        table, more = weights.counted.table, {"token_weights": weights.by_token, **place}
        row = self.make_row(tokens, kinds, offsets, weights.by_document, table, self.pad_id, self.device, **more)
        if (found := self.weights.beside(documents, step)) is not None:
            ones, more["token_weights"] = (np.ones(len(documents)), np.ones_like(table)), found  # laid out as weights
            laid = self.make_row(tokens, kinds, offsets, *ones, self.pad_id, self.device, **more)
            row = replace(row, reference_nll=laid.loss_weight)
        if taught is None or self.teacher is None:
            return row, None
        return self.teacher.beside(row, documents, kinds, offsets, weights, taught, **place)


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
