"""The encode stage: selected records become tokenised documents with a kind and a step for every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import (
    GENERAL,
    QUESTION_SCHEMA,
    RECORD_SCHEMA,
    Record,
    read_rows,
    record_from_row,
    write_rows,
)
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.document import PlainLayout
from tracestill.data_pipeline.documents.facts import Facts
from tracestill.data_pipeline.documents.overlong import CAPACITY, POSITIONS, Fit, fit_document
from tracestill.data_pipeline.documents.round_trip import RoundTrip
from tracestill.data_pipeline.documents.two_task import TwoTaskLayout
from tracestill.data_pipeline.granularity import Granularity, GranularityConfig, Tally, granularity
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter, segmenter
from tracestill.data_pipeline.tokens.columns import FILE, ColumnsWriter
from tracestill.data_pipeline.tokens.layout import Encoded, Layout, LayoutConfig
from tracestill.data_pipeline.tokens.render import load_tokenizer
from tracestill.data_pipeline.tokens.sides import EncoderDecoderLayout
from tracestill.data_pipeline.tokens.store import TokenStoreWriter
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig, count_records, held_out_questions, record_batches

SEGMENT = SegmentConfig()
BATCH = 64  # records in memory at a time
STORES = {"train": "tokens.arrow", "validation": "validation.arrow", "test": "test.arrow"}
REJECTED = pa.schema([(name, pa.string()) for name in ("record_id", "question_id", "reason", "detail")])


class EncodeConfig(LayoutConfig):
    """The ``encode`` block."""

    tokenizer: TokenizerConfig = Field(default=TokenizerConfig(), description="trained on the selected text, or taken")
    granularity: GranularityConfig = Field(
        default=GranularityConfig(), description="how much of a trace a document holds: full, or what is left of it"
    )
    max_lossy: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="largest share of records of which the tokenizer may lose a character (<unk>); fewer are a warning",
    )

    @model_validator(mode="after")
    def _template(self) -> EncodeConfig:
        if self.template == "chat" and self.tokenizer.path is None:
            raise ValueError("encode.template: chat needs encode.tokenizer.path, a tokenizer that has a chat template")
        return self


def stage_config(
    config: EncodeConfig,
    kinds: Kinds,
    plan: PlanConfig,
    segment: SegmentConfig = SEGMENT,
    memory: Path | None = None,
    positions: int | None = None,
) -> dict[str, Any]:
    """What, besides records and tokenizer, decides how the token stores come out. ``positions``: see ``run``."""
    ways = [segmenter.stage_config(segment, memory), granularity.stage_config(config.granularity, memory)]
    own = {field: files for way in ways for field, files in way.get(CONTENTS, {}).items()}
    return {
        "trace": config.trace,
        **config.model_dump(mode="json", exclude={"tokenizer", "trace"}, exclude_defaults=True),
        "kinds": kinds.names,
        "tree": dict(kinds.parents),
        "capacity": plan.capacity,
        "overlong": plan.overlong,
        **ways[0],
        **ways[1],
        **({CONTENTS: own} if own else {}),
        **({"columns": plan.own_columns} if plan.own_columns else {}),
        **({"positions": positions} if positions is not None and positions < plan.capacity else {}),
    }


def run(
    config: EncodeConfig,
    kinds: Kinds,
    plan: PlanConfig,
    directory: Path,
    *,
    sample: Path,
    select: Path,
    tokenizer: Path,
    segment: SegmentConfig = SEGMENT,
    memory: Path | None = None,
    positions: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write tokens.arrow, validation.arrow and test.arrow (where such documents are), rejected.parquet, and
    documents.parquet: what is known of each training document (see ``tokens.columns``).

    Documents are no longer than ``plan.capacity``, nor than the student's ``positions`` (None: it has no bound);
    ``plan.overlong`` says what happens to one that is. The manifest counts records in, out and rejected by reason
    (``overlong``, ``empty_question``, ``empty_answer``, ``no_spans``, ``not_cut``, and those of the layout), the
    layout's ``notes`` on the records that are out, documents ``trimmed``, ``tokens_lost`` by kind in documents trimmed
    or dropped, what ``granularity`` cut, and for each split documents, tokens and ``targets`` by kind. What the
    tokenizer does to their text is counted too (see ``round_trip``). ``progress`` is told records done and in all.

    Raises InputError naming the record whose spans or weight are bad or which is too long (policy ``error``), if no
    training document is left, or if more than ``config.max_lossy`` of the records lose characters.
    """
    source = select / "records.parquet"
    inputs = {"sample": sample, "select": select, "tokenizer": tokenizer}
    cut = Segmenter(segment)
    keep = Granularity(config.granularity if config.trace == "keep" else GranularityConfig(), kinds)
    with stage(directory, "encode", stage_config(config, kinds, plan, segment, memory, positions), inputs) as work:
        layout, held_out = load_layout(config, tokenizer), held_out_questions(sample)
        trip = RoundTrip(tokenizer, kinds, with_trace=config.trace == "keep")
        for key, text in config.own_texts().items():
            trip.check_setting(key, text)
        if config.marks is not None:
            trip.check_setting("encode.form", config.marks.closing)
        with Stores(work.path, kinds, plan, held_out, positions, Facts(sample, plan.own_columns)) as stores:
            done, total = 0, count_records(source)
            for batch in record_batches(source, RECORD_SCHEMA, BATCH):
                records = [cut(record_from_row(row)) for row in batch.to_pylist()]
                records = [record for record in records if not stores.lacks_spans(record)]
                if keep.config.cuts:
                    records = stores.cut(records, keep, trip)
                for record, encoded in zip(records, layout.encode(records, kinds), strict=True):
                    stores.add(record, encoded)
                trip.add(records)
                done += len(batch)
                progress(done, total)
        write_rows(work.path / "rejected.parquet", stores.rejected, REJECTED)
        questions = read_rows(sample / "questions.parquet", QUESTION_SCHEMA)
        trip.add_questions([row for row in questions if row["question_id"] in held_out])
        trip.check(config.max_lossy, str(source))
        stores.notes += trip.notes
        work.counts = stores.counts(trip.unknown_tokens())
        work.extra = {
            "kinds": kinds.names,
            "special_ids": layout.special_ids,
            "vocab_size": layout.size,
            **({"form": layout.findings} if layout.findings else {}),
            **({"lost_text": lost, "warnings": trip.warnings()} if (lost := trip.findings()) else {}),
        }
        if "train" not in work.counts["splits"]:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in work.counts["rejected"].items()) or "none came in"
            raise InputError(
                f"{source}: no document of a training question is left ({reasons}); loosen `select`, sample more "
                "traces or raise plan.capacity"
            )


def load_layout(config: LayoutConfig, directory: Path) -> Layout:
    """The layout of a recipe with the tokenizer in ``directory``.

    Raises InputError if the tokenizer lacks a symbol that the layout needs, or its chat template cannot be trained on,
    naming what the template does and what to set.
    """

    def single(trace: Literal["keep", "drop"]) -> Layout:
        if not config.has_symbols:
            return ChatLayout(directory, config.model_copy(update={"trace": trace}))
        return PlainLayout(load_tokenizer(directory), trace)

    layout = single(config.trace)
    for key, text in config.own_texts().items():
        if symbol := layout.control_in(text):
            raise InputError(f"{key}: holds {symbol}, which {directory} reads as a control symbol; leave it out")
    if config.two_task is not None:
        layout = TwoTaskLayout(single("keep"), single("drop"), config.two_task)
    if config.template == "encoder_decoder":
        layout = EncoderDecoderLayout(layout, load_tokenizer(directory))
    return layout


class Stores:
    """Puts documents that fit into the store of their split, and counts what became of every record."""

    def __init__(
        self,
        directory: Path,
        kinds: Kinds,
        plan: PlanConfig,
        held_out: Mapping[str, str],
        positions: int | None = None,
        facts: Facts | None = None,
    ) -> None:
        self.facts = facts
        self.table: ColumnsWriter | None = None
        self.directory, self.kinds, self.plan, self.held_out = directory, kinds, plan, held_out
        self.longest, self.bound = plan.capacity, CAPACITY
        if positions is not None and positions < plan.capacity:
            self.longest, self.bound = positions, POSITIONS
        self.trace_kinds = np.array([kinds.id(name) for name in kinds.members("trace")])
        self.rejected: list[dict[str, str]] = []
        self.out, self.trimmed = 0, 0
        self.notes = Counter[str]()
        self.lost = np.zeros(len(kinds), np.int64)  # tokens
        self.documents, self.tokens = Counter[str](), Counter[str]()
        self.targets = {split: np.zeros(len(kinds), np.int64) for split in STORES}
        self.writers: dict[str, TokenStoreWriter] = {}
        self.tally = Tally()
        self.opened = ExitStack()

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *error: Any) -> None:
        self.opened.__exit__(*error)

    def add(self, record: Record, encoded: Encoded) -> None:
        """Store all documents of a record, or reject it.

        Raises InputError naming the record if its weight is bad, or it is too long and ``plan.overlong`` is ``error``.
        """
        name = f"record {record.record_id} (question {record.question_id})"
        if record.weight is None or not 0 <= record.weight < float("inf"):
            raise InputError(f"{name}: its weight {record.weight} is not a finite number >= 0")
        for part in ("question", "answer") if record.reader != GENERAL else ("answer",):
            if not getattr(record, part).strip():
                return self.reject(record, f"empty_{part}", "")
        if encoded.refused:
            return self.reject(record, *encoded.refused)
        fits = {}
        for ending, made in encoded.documents.items():
            fits[ending] = fit_document(name, *made, self.longest, self.plan.overlong, self.trace_kinds, self.bound)
            if fits[ending].outcome == "dropped":  # and with it, the record's other documents
                for lost in encoded.documents.values():
                    self.lost += np.bincount(lost.kinds, minlength=len(self.kinds))
                return self.reject(record, "overlong", f"{len(made.tokens)} tokens, {self.bound} {self.longest}")
        split = self.held_out.get(record.question_id, "train")
        self.out += 1
        self.notes += encoded.notes
        for ending, fit in fits.items():
            self.store(split, record, ending, fit)
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

    def store(self, split: str, record: Record, ending: str, fit: Fit) -> None:
        if split not in self.writers:
            path = self.directory / STORES[split]
            self.writers[split] = self.opened.enter_context(TokenStoreWriter(path, self.kinds))
        self.writers[split].add(
            record.record_id + ending, record.question_id, fit.tokens, fit.kinds, fit.steps, record.weight
        )
        if split == "train" and self.facts is not None:
            if self.table is None:
                self.table = self.opened.enter_context(ColumnsWriter(self.directory / FILE, self.facts.types))
            self.table.add(self.facts.row(record, ending, int(np.isin(fit.kinds, self.trace_kinds).sum())))
        self.lost += np.bincount(fit.lost, minlength=len(self.kinds))
        self.trimmed += fit.outcome == "trimmed"
        self.documents[split] += 1
        self.tokens[split] += len(fit.tokens)
        self.targets[split] += np.bincount(fit.kinds[1:], minlength=len(self.kinds))

    def reject(self, record: Record, reason: str, detail: str) -> None:
        ids = {"record_id": record.record_id, "question_id": record.question_id}
        self.rejected.append({**ids, "reason": reason, "detail": detail})

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


def by_name(kinds: Kinds, counts: np.ndarray) -> dict[str, int]:
    """Kind -> count, without kinds that do not occur."""
    return {name: int(count) for name, count in zip(kinds.names, counts, strict=True) if count}
