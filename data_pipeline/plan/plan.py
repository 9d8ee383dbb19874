"""The plan of one epoch: which documents share a pack, and which packs form a step.

The plan follows from the lengths, its config, the seed and the epoch, and never from the number of ranks. All
choices come from the raw 64-bit output of a counter-based generator (Philox, keyed by seed and epoch) and from
sorts of distinct integers, so they do not change with NumPy's version, its sorting routines or the machine.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, Field, field_validator, model_validator

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.channels.document_scores import DocumentScore, Said
from tracestill.data_pipeline.plan import curriculum
from tracestill.data_pipeline.plan.arrange import arrange
from tracestill.data_pipeline.plan.curriculum import OrderConfig
from tracestill.data_pipeline.plan.keep import QUESTION, KeepConfig, choose
from tracestill.data_pipeline.plan.mixture import MixtureConfig, make_mixer
from tracestill.data_pipeline.plan.order import LINEAR_COST, order_packs, shuffled, step_sizes
from tracestill.data_pipeline.plan.packing import Packing, best_fit_decreasing, expand
from tracestill.data_pipeline.plan.spread import spread
from tracestill.data_pipeline.tokens.columns import IDS, KNOWN, Columns

FORMAT = 1
ARRAYS = ("documents", "pack_offsets", "steps")
GROUP = 64  # default group: ranks up to this number that divide it do equal work


class PlanConfig(BaseModel, extra="forbid"):
    """How documents become packs and packs become steps."""

    capacity: int = Field(gt=0, le=1 << 24, description="tokens a pack may hold")
    packs_per_step: int = Field(gt=0, le=1 << 20, description="packs in one optimizer update, over all ranks")
    group: int = Field(
        default=0,
        ge=0,
        description="packs of similar cost that are taken together; divides packs_per_step. Rank counts that divide "
        "it do equal work; a step of several groups is more mixed. 0: packs_per_step up to 64, else its smallest "
        "divisor that is at least 64",
    )
    balance: Literal["cost", "off"] = Field(
        default="cost", description="cost: a group holds packs of similar cost; off: packs come in random order"
    )
    overlong: Literal["error", "drop", "trim_trace"] = Field(
        default="error",
        description="documents longer than the capacity: error stops; drop leaves them out, counted; trim_trace cuts "
        "the middle of the trace, keeps question and answer, and counts the tokens lost by kind",
    )

    keep: KeepConfig | None = Field(
        default=None, description="which documents it may hold, by what a channel of `score` says of them; null: all"
    )
    mixture: MixtureConfig | None = Field(
        default=None, description="parts of the documents and the share of each in an epoch; null: every document once"
    )
    order: OrderConfig = Field(
        default=OrderConfig(), description="what comes first in an epoch; a text stands for its `by`"
    )

    @field_validator("order", mode="before")
    @classmethod
    def _by(cls, value: object) -> object:
        return {"by": value} if isinstance(value, str) else value

    @field_validator("balance", mode="before")
    @classmethod
    def _off(cls, value: object) -> object:
        return "off" if value is False else value  # YAML reads a bare `off` as false

    @model_validator(mode="after")
    def _choose_group(self) -> PlanConfig:
        size = self.packs_per_step
        if self.group == 0:
            self.group = next(d for d in range(min(size, GROUP), size + 1) if size % d == 0)
        if size % self.group:
            raise ValueError(f"group {self.group} does not divide packs_per_step {size}")
        return self

    @property
    def columns(self) -> list[str]:
        """Names of what mixture and order have to know of documents, besides their lengths."""
        mixed = self.mixture.columns() if self.mixture is not None else []
        return list(dict.fromkeys([*mixed, *self.order.columns(), *([QUESTION] if self.keep is not None else [])]))

    @property
    def channels(self) -> list[str]:
        """SCORER.CHANNEL of what keep and order read."""
        scores = [score for score in (self.keep, self.order.by) if isinstance(score, DocumentScore)]
        return list(dict.fromkeys(name for score in scores for name in score.channels))

    @property
    def own_columns(self) -> list[str]:
        """Those of them that come from the questions' metadata."""
        return sorted(set(self.columns) - {*IDS, *KNOWN})


@dataclass(frozen=True)
class Plan:
    """One epoch. Packs are numbered in the order in which training reads them.

    documents     (M,) int32 or int64: document ids, pack after pack, the longest of a pack first; without a mixture
                  each of the store once, with one never twice in a pack
    pack_offsets  (packs + 1,) int64: pack p holds documents[pack_offsets[p]:pack_offsets[p + 1]]
    steps         (steps, packs_per_step) int32: pack ids; -1 is an empty pack. Steps differ by at most one pack,
                  and empty packs come last in a step.
    """

    capacity: int
    packs_per_step: int
    documents: np.ndarray
    pack_offsets: np.ndarray
    steps: np.ndarray

    @property
    def n_steps(self) -> int:
        return len(self.steps)

    @property
    def n_packs(self) -> int:
        return len(self.pack_offsets) - 1

    def pack(self, index: int) -> np.ndarray:
        """(n,) ids of the documents in pack ``index``; none for -1, the empty pack."""
        if index < 0:
            return self.documents[:0]
        return self.documents[self.pack_offsets[index] : self.pack_offsets[index + 1]]

    def step(self, index: int) -> list[np.ndarray]:
        """The packs of a step, each as the ids of its documents; empty packs are left out."""
        return [self.pack(pack) for pack in self.steps[index].tolist() if pack >= 0]

    def steps_of_documents(self) -> np.ndarray:
        """(M,) the step of each of ``documents``."""
        of_pack = np.zeros(self.n_packs, np.int64)
        real = self.steps >= 0
        of_pack[self.steps[real]] = np.nonzero(real)[0]
        return np.repeat(of_pack, np.diff(self.pack_offsets))

    def digest(self) -> str:
        """sha256 in hex of everything the plan says; equal plans have equal digests on every machine."""
        state = hashlib.sha256(f"{FORMAT} {self.capacity} {self.packs_per_step}\n".encode())
        for name in ARRAYS:
            array = getattr(self, name)
            state.update(f"{name} {array.dtype.itemsize} {array.shape}\n".encode())
            for part in np.array_split(array, max(1, array.nbytes >> 24)):
                state.update(np.ascontiguousarray(part, dtype=part.dtype.newbyteorder("<")).data.cast("B"))
        return state.hexdigest()

    def statistics(self, lengths: np.ndarray, ranks: tuple[int, ...] = ()) -> dict[str, Any]:
        """What the plan costs: packs, filling, empty slots, and the imbalance of work for each number of ranks.

        lengths: (N,) tokens of each document. ``imbalance`` and ``sameness``: the functions of these names.
        """
        used = np.add.reduceat(lengths[self.documents].astype(np.int64), self.pack_offsets[:-1])
        tokens = int(used.sum())
        least = -(-tokens // self.capacity)
        return {
            "documents": len(self.documents),
            "tokens": tokens,
            "packs": self.n_packs,
            "packs_lower_bound": least,
            "packs_over_lower_bound": self.n_packs / least - 1,
            "fill": tokens / (self.n_packs * self.capacity),
            "wasted_tokens": self.n_packs * self.capacity - tokens,
            "longest_pack": int(used.max()),
            "steps": self.n_steps,
            "empty_packs": int((self.steps < 0).sum()),
            "sameness": sameness(self, lengths),
            "imbalance": {count: imbalance(self, pack_costs(self, lengths), count) for count in ranks},
        }


class Planner:
    """Makes the plans of a run's epochs, equal for equal arguments."""

    def __init__(
        self,
        lengths: np.ndarray,  # (N,) int32: tokens of each document
        config: PlanConfig,
        *,
        seed: int,
        columns: Columns | None = None,
        said: Said | None = None,
        alike: bool = False,
    ) -> None:
        """``columns``, ``said``: what is known of documents, for what the config needs. ``alike``: documents of a pack
        are padded to one length, so those of one length share a pack (best fit), where else packs are mixed
        (``spread``). Raises InputError if there is no document, one is empty or longer than the capacity (the stage
        that encodes applies ``config.overlong``), or keep, mixture or order do not fit them."""
        self.lengths, self.config, self.seed = np.asarray(lengths), config, seed
        self.pack = best_fit_decreasing if alike else spread
        check_lengths(self.lengths, config.capacity)
        self.kept: np.ndarray | None = None  # (N,) bool: documents that epochs may hold
        self.keep: dict[str, Any] = {}  # what to tell of that
        if config.keep is not None:
            assert columns is not None
            assert said is not None
            self.kept, self.keep = choose(config.keep, said(config.keep), columns.texts(QUESTION)[0], seed)
        self.mixer = None
        if config.mixture is not None:
            self.mixer = make_mixer(config.mixture, columns, self.lengths, seed, self.kept)
        self.keys = curriculum.keys_of(config.order, columns, self.lengths, said)

    def plan(self, epoch: int) -> Plan:
        """The plan of one epoch: packs grouped by cost, groups shuffled.

        Which document takes a place among those of its length is drawn anew for every (seed, epoch), and so is the
        order of groups. Uses at most 0.5 % more packs than item-by-item best-fit-decreasing.
        """
        if min(self.seed, epoch) < 0:
            raise InputError(f"plan: seed {self.seed} and epoch {epoch} must not be negative")
        config, bits = self.config, np.random.Philox(key=np.array([self.seed, epoch], dtype=np.uint64))
        packing, sorted_documents, stages = self.packed(epoch, bits)
        sizes = step_sizes(packing.bins, config.packs_per_step)
        # rank: the place of a bin when bins are sorted by cost; ranks: which rank stands at each place of the epoch
        rank_of_bin, ranks = order_packs(packing, sizes, config.group, config.balance == "cost", bits, stages)

        # int32 halves the memory traffic; ids and slots are below N
        count = int(packing.runs[:, 1] @ packing.runs[:, 2])
        index = np.int32 if max(len(self.lengths), count) < 1 << 31 else np.int64
        documents_at_rank = np.empty(packing.bins, dtype=index)
        documents_at_rank[rank_of_bin] = np.repeat(packing.runs[:, 2].astype(index), packing.runs[:, 1])
        pack_offsets = np.zeros(packing.bins + 1, dtype=np.int64)
        np.cumsum(documents_at_rank[ranks], out=pack_offsets[1:])
        slot_of_rank = np.empty(packing.bins, dtype=index)
        slot_of_rank[ranks] = pack_offsets[:-1]
        first_slot = slot_of_rank[rank_of_bin]
        del documents_at_rank, slot_of_rank, rank_of_bin, ranks

        if sorted_documents is None:
            sorted_documents = shuffled(bits, len(self.lengths), config.capacity, self.lengths)
        documents = expand(packing, sorted_documents.astype(index, copy=False), first_slot)
        column = np.arange(config.packs_per_step, dtype=np.int32)
        steps = np.where(column < sizes[:, None], column + (np.cumsum(sizes) - sizes)[:, None], -1).astype(np.int32)
        return Plan(config.capacity, config.packs_per_step, documents, pack_offsets, steps)

    def packed(self, epoch: int, bits: np.random.Philox) -> tuple[Packing, np.ndarray | None, list[int]]:
        """(packing; its documents, None: all, by length and at random; packs of each stage, none: there is one)."""
        lengths, capacity = self.lengths, self.config.capacity
        if self.mixer is None and self.keys is None and self.kept is None:
            return self.pack(np.bincount(lengths, minlength=capacity + 1), capacity), None, []
        if self.mixer is not None:
            copies = self.mixer.copies(epoch)
        else:
            copies = np.ones(len(lengths), np.int32) if self.kept is None else self.kept.astype(np.int32)
        stages, grid, stage_of = 1, 1, np.zeros(int(copies.sum()), np.int8)
        if self.keys is not None:
            tokens = int(copies @ lengths.astype(np.int64))
            stages, grid = curriculum.grid_of(lengths, -(-tokens // capacity), self.config.packs_per_step)
            stage_of = curriculum.stages_of(np.repeat(self.keys, copies), stages, self.config.order.mixing, bits)
        return arrange(lengths, copies, stage_of, stages, grid, capacity, bits, self.pack)

    def report(self, plan: Plan, ranks: tuple[int, ...] = ()) -> dict[str, Any]:
        """``Plan.statistics``, and what became of keep, mixture and order: of a choice what ``keep.choose`` tells, of a
        mixture the figures of each part, of an order how well the epoch follows it, and the statistics that epoch 0 has
        in a random one (``unordered``)."""
        found = plan.statistics(self.lengths, ranks)
        if self.keep:
            found["keep"] = self.keep
        if self.mixer is not None:
            found["mixture"] = self.mixer.report(plan.documents, self.lengths)
        if self.keys is not None:
            order = self.config.order
            found["order"] = curriculum.report(order, self.keys, plan.documents, plan.steps_of_documents())
            loose = copy.copy(self)
            loose.keys = None
            other = loose.plan(0).statistics(self.lengths, ranks)
            found["order"]["unordered"] = {key: other[key] for key in ("packs", "fill", "imbalance")}
        return found


def make_plan(
    lengths: np.ndarray,  # (N,) int32: tokens of each document
    config: PlanConfig,
    *,
    seed: int,
    epoch: int,
    columns: Columns | None = None,
) -> Plan:
    """The plan of one epoch, as ``Planner.plan`` makes it. Raises InputError as it does."""
    return Planner(lengths, config, seed=seed, columns=columns).plan(epoch)


def check_lengths(lengths: np.ndarray, capacity: int) -> None:
    """Raise InputError unless ``lengths`` is a non-empty (N,) array of integers from 1 to ``capacity``."""
    if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
        raise InputError(f"lengths: expected a flat array of integers, got {lengths.dtype} of shape {lengths.shape}")
    if not len(lengths):
        raise InputError("plan: there is no document to plan; check what the stages before it rejected")
    if lengths.min() < 1:
        raise InputError(f"document {int(lengths.argmin())}: has no token; encode it again or reject it")
    if lengths.max() > capacity:
        longest = int(lengths.argmax())
        raise InputError(
            f"document {longest}: {int(lengths[longest])} tokens exceed the capacity of {capacity}; raise "
            "plan.capacity, or set plan.overlong to 'drop' or 'trim_trace' and encode again"
        )


def slot(micro_step: int, rank: int, ranks: int) -> int:
    """The slot of a step that ``rank`` takes in ``micro_step``: ranks at work together take neighbouring slots."""
    return micro_step * ranks + rank


def schedule(plan: Plan, step: int, ranks: int) -> np.ndarray:
    """(accumulation, ranks) pack ids of one step, -1 for an empty pack: row = micro-step, column = rank.

    accumulation = ceil(packs_per_step / ranks), the same for every step and rank.
    """
    accumulation = -(-plan.packs_per_step // ranks)
    packs = np.full(accumulation * ranks, -1, dtype=np.int64)
    packs[: plan.packs_per_step] = plan.steps[step]
    return packs.reshape(accumulation, ranks)


def pack_costs(plan: Plan, lengths: np.ndarray) -> np.ndarray:
    """(packs,) int64: sum over a pack's documents of 24,576 * L + L^2, the work of attention plus the rest."""
    tokens = lengths[plan.documents].astype(np.int64)
    return np.add.reduceat(tokens * (tokens + LINEAR_COST), plan.pack_offsets[:-1])


def imbalance(
    plan: Plan,
    values: np.ndarray,  # (packs,) work, or tokens of some sort, of each pack
    ranks: int,
) -> float:
    """Mean over micro-steps of the largest over the mean value of a rank; 1 is perfect. An empty pack counts as 0;
    micro-steps in which all packs are empty or worth nothing are left out."""
    accumulation = -(-plan.packs_per_step // ranks)
    slots = np.zeros((plan.n_steps, accumulation * ranks))
    slots[:, : plan.packs_per_step] = np.where(plan.steps >= 0, values[plan.steps], 0)
    work = slots.reshape(-1, ranks)
    work = work[work.any(axis=1)]
    return float((work.max(axis=1) / work.mean(axis=1)).mean())


def sameness(plan: Plan, lengths: np.ndarray) -> float:
    """How alike in length the documents of a step are: the variance of steps' mean lengths, over what it would be if
    documents were drawn at random. 1: as if drawn; below: each step is an image of the epoch; far above: there are
    steps of short documents and steps of long ones. 1.0 if all are alike, or there is one step."""
    of_step, values = plan.steps_of_documents(), lengths[plan.documents].astype(np.float64)
    count = np.bincount(of_step, minlength=plan.n_steps)
    apart = float(count @ (np.bincount(of_step, values) / count - values.mean()) ** 2)
    expected = (plan.n_steps - 1) * float(values.var())
    return apart / expected if expected else 1.0


def save_plan(plan: Plan, path: Path) -> None:
    """Write the plan into the directory ``path``: three .npy files and plan.json, which holds the digest."""
    path.mkdir(parents=True, exist_ok=True)
    for name in ARRAYS:
        np.save(path / f"{name}.npy", getattr(plan, name), allow_pickle=False)
    about = {
        "format": FORMAT,
        "capacity": plan.capacity,
        "packs_per_step": plan.packs_per_step,
        "digest": plan.digest(),
    }
    (path / "plan.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def load_plan(path: Path) -> Plan:
    """Read a plan with its arrays memory-mapped, and check it against its digest.

    Raises InputError if a file is missing or unreadable, has another format, or differs from what was written.
    """
    try:
        about = json.loads((path / "plan.json").read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise InputError(f"{path / 'plan.json'}: format {about['format']}, expected {FORMAT}; plan again")
        arrays = [np.load(path / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in ARRAYS]
        plan = Plan(about["capacity"], about["packs_per_step"], *arrays)
        digest = about["digest"]
    except InputError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a readable plan ({error}); delete it and plan again") from error
    if plan.digest() != digest:
        raise InputError(f"{path}: the arrays differ from the digest in plan.json; delete it and plan again")
    return plan
