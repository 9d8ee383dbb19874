"""What became of some records: documents that fit, by split, and what to count."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import GENERAL, Record
from tracestill.data_pipeline.documents.overlong import CAPACITY, PAD, POSITIONS, Fit, fit_document
from tracestill.data_pipeline.documents.round_trip import Lost, RoundTrip
from tracestill.data_pipeline.granularity import Granularity, Tally
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.tokens.layout import Document, Encoded
from tracestill.data_pipeline.tokens.store import Documents

OF_RECORD = ("record_id", "question_id", "teacher", "style")


class Bounds(NamedTuple):
    """What a document has to fit, and what happens to one that does not."""

    kinds: Kinds
    plan: PlanConfig
    positions: int | None = None  # of the student

    @property
    def longest(self) -> tuple[int, str]:
        """Tokens of a document at most, and whose number it is."""
        if self.positions is not None and self.positions < self.plan.capacity:
            return self.positions, POSITIONS
        return self.plan.capacity, CAPACITY


class Made:
    """Takes documents that fit into their split, and counts what became of every record."""

    def __init__(self, bounds: Bounds, held_out: Mapping[str, str] = MappingProxyType({})) -> None:
        self.kinds, self.plan, self.held_out = bounds.kinds, bounds.plan, held_out
        self.longest, self.bound = bounds.longest
        self.trace_kinds = np.array([self.kinds.id(name) for name in self.kinds.members("trace")])
        self.is_trace = np.isin(np.arange(len(self.kinds)), self.trace_kinds)  # (K,)
        self.read = 0  # records
        self.rejected: list[dict[str, str]] = []
        self.out, self.trimmed = 0, 0
        self.notes = Counter[str]()
        self.lost = np.zeros(len(self.kinds), np.int64)  # tokens
        self.documents, self.tokens = Counter[str](), Counter[str]()
        self.targets = {split: np.zeros(len(self.kinds), np.int64) for split in ("train", "validation", "test")}
        self.kept: dict[str, list[tuple[str, Record, Fit | Document]]] = defaultdict(
            list
        )  # by split, with the id of each
        self.lost_text = Lost()
        self.tally = Tally()
        self.rows: dict[str, list[Any]] = {}  # of documents of training questions, in their order: see ``Facts.table``

    def add(self, record: Record, encoded: Encoded) -> None:
        """Keep all documents of a record, or reject it.

        Raises InputError naming the record if its weight is bad, or it is too long and ``plan.overlong`` is ``error``.
        """
        if record.weight is None or not 0 <= record.weight < float("inf"):
            raise InputError(f"{name_of(record)}: its weight {record.weight} is not a finite number >= 0")
        for part in ("question", "answer") if record.reader != GENERAL else ("answer",):
            if not getattr(record, part).strip():
                return self.reject(record, f"empty_{part}", "")
        if encoded.refused:
            return self.reject(record, *encoded.refused)
        fits: dict[str, Fit | Document] = {}
        for ending, made in encoded.documents.items():
            if len(made.tokens) <= self.longest and made.kinds[0] != PAD:  # nearly all of them
                fits[ending] = made
                continue
            fit = fit_document(name_of(record), *made, self.longest, self.plan.overlong, self.trace_kinds, self.bound)
            if fit.outcome == "dropped":  # and with it, the record's other documents
                for lost in encoded.documents.values():
                    self.lost += np.bincount(lost.kinds, minlength=len(self.kinds))
                return self.reject(record, "overlong", f"{len(made.tokens)} tokens, {self.bound} {self.longest}")
            fits[ending] = fit
        split = self.held_out.get(record.question_id, "train")
        self.out += 1
        self.notes.update(encoded.notes)
        for ending, kept in fits.items():
            self.keep(split, record, ending, kept)
        return None

    def lacks_spans(self, record: Record) -> bool:
        """Reject a record whose trace has no spans, as ``segment.by: spans`` leaves it."""
        if lacks := bool(record.trace) and not record.spans:
            self.reject(record, "no_spans", "segment.by: spans, and neither teacher nor file gave any")
        return lacks

    def cut(self, records: Sequence[Record], keep: Granularity, trip: RoundTrip) -> list[Record]:
        """The records as ``encode.granularity`` leaves them, without those that it rejects."""
        left = []
        for record in records:
            cut = keep(record)
            self.tally.add(record, cut)
            if cut.outcome == "cut":
                self.tally.less("tokens", trip.trace_tokens(record), trip.trace_tokens(cut.record))
            if cut.outcome == "not_cut" and keep.config.not_cut == "reject":
                self.reject(record, "not_cut", f"{keep.config.keep}: {cut.reason}")
                continue
            left.append(cut.record)
        return left

    def keep(self, split: str, record: Record, ending: str, fit: Fit | Document) -> None:
        self.kept[split].append((record.record_id + ending, record, fit))
        if isinstance(fit, Fit) and fit.outcome != "kept":
            self.lost += np.bincount(fit.lost, minlength=len(self.kinds))
            self.trimmed += fit.outcome == "trimmed"

    def reject(self, record: Record, reason: str, detail: str) -> None:
        ids = {"record_id": record.record_id, "question_id": record.question_id}
        self.rejected.append({**ids, "reason": reason, "detail": detail})

    def take(self) -> dict[str, Documents]:
        """The documents kept so far, by split; they are not kept here any more."""
        found = {}
        for split, held in self.kept.items():
            ids, records, fits = zip(*held, strict=True)
            kinds = np.concatenate([fit.kinds for fit in fits])
            lengths = np.fromiter((len(fit.tokens) for fit in fits), np.int64, len(fits))
            starts = np.cumsum(lengths) - lengths
            # the first token of a document is no target
            counts = [np.bincount(each, minlength=len(self.kinds)) for each in (kinds, kinds[starts])]
            self.targets[split] += counts[0] - counts[1]
            self.documents[split] += len(held)
            self.tokens[split] += len(kinds)
            found[split] = Documents(
                list(ids),
                [record.question_id for record in records],
                [record.weight for record in records],
                lengths,
                np.concatenate([fit.tokens for fit in fits]),
                kinds,
                np.concatenate([fit.steps for fit in fits]),
            )
            if split == "train":
                self.rows = {
                    "id": list(ids),
                    **{name: [getattr(record, name) for record in records] for name in OF_RECORD},
                    "trace_tokens": np.add.reduceat(self.is_trace[kinds], starts, dtype=np.int64).tolist(),
                    "general": [record.reader == GENERAL for record in records],
                }
        self.kept.clear()
        return found

    def join(self, later: Made) -> None:
        """Count what became of the records that come next; their documents have been taken."""
        self.read += later.read
        self.rejected += later.rejected
        self.out += later.out
        self.trimmed += later.trimmed
        self.lost += later.lost
        for own, more in (
            (self.notes, later.notes),
            (self.documents, later.documents),
            (self.tokens, later.tokens),
        ):
            own.update(more)
        for split, counts in later.targets.items():
            self.targets[split] += counts
        self.lost_text.add(later.lost_text)
        self.tally.join(later.tally)

    def counts(self, unknown_tokens: Mapping[str, int] = MappingProxyType({})) -> dict[str, Any]:
        return {
            "in": self.out + len(self.rejected),
            "out": self.out,
            "rejected": dict(sorted(Counter(row["reason"] for row in self.rejected).items())),
            **({"notes": dict(sorted(self.notes.items()))} if self.notes else {}),
            "trimmed": self.trimmed,
            "tokens_lost": by_name(self.kinds, self.lost),
            **({"unknown_tokens": dict(unknown_tokens)} if unknown_tokens else {}),
            **({"granularity": self.tally.counts()} if self.tally.records else {}),
            "splits": {
                split: {
                    "documents": self.documents[split],
                    "tokens": self.tokens[split],
                    "targets": by_name(self.kinds, self.targets[split]),
                }
                for split in self.documents
            },
        }


def name_of(record: Record) -> str:
    """How an error names a record."""
    return f"record {record.record_id} (question {record.question_id})"


def by_name(kinds: Kinds, counts: np.ndarray) -> dict[str, int]:
    """Kind -> count, without kinds that do not occur."""
    return {name: int(count) for name, count in zip(kinds.names, counts, strict=True) if count}
