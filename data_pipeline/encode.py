"""The encode stage: selected records become tokenised documents with a kind and a step for every token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from tracestill.data_pipeline.document import Document, encode
from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.kinds import Kinds
from tracestill.data_pipeline.overlong import fit_document
from tracestill.data_pipeline.plan import PlanConfig
from tracestill.data_pipeline.render import load_tokenizer
from tracestill.data_pipeline.schema import RECORD_SCHEMA, Record, record_from_row, write_rows
from tracestill.data_pipeline.stage import stage
from tracestill.data_pipeline.store import TokenStoreWriter
from tracestill.data_pipeline.tokenizer import TokenizerConfig, count_records, held_out_questions, record_batches

BATCH = 64  # records in memory at a time
STORES = {"train": "tokens.arrow", "validation": "validation.arrow", "test": "test.arrow"}
REJECTED = pa.schema([(name, pa.string()) for name in ("record_id", "question_id", "reason", "detail")])


class EncodeConfig(BaseModel):
    """The ``encode`` block."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokenizer: TokenizerConfig = Field(default=TokenizerConfig(), description="trained on the selected text, or taken")
    trace: Literal["keep", "drop"] = Field(
        default="keep", description="drop: answers only; the think block stays and is empty"
    )


def stage_config(config: EncodeConfig, kinds: Kinds, plan: PlanConfig) -> dict[str, Any]:
    """What, besides records and tokenizer, decides how the token stores come out."""
    return {
        "trace": config.trace,
        "kinds": kinds.names,
        "groups": dict(kinds.groups),
        "capacity": plan.capacity,
        "overlong": plan.overlong,
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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write tokens.arrow, validation.arrow and test.arrow (where such documents are), and rejected.parquet.

    Documents are no longer than ``plan.capacity``; ``plan.overlong`` says what happens to one that is. The manifest
    counts records in, out and rejected by reason (``overlong``, ``empty_question``, ``empty_answer``), documents
    ``trimmed``, ``tokens_lost`` by kind in documents trimmed or dropped, and for each split documents, tokens and
    ``targets`` by kind. ``progress`` is told records done and in all.

    Raises InputError naming the record whose spans or weight are bad or which is too long (policy ``error``), or
    if no training document is left.
    """
    source = select / "records.parquet"
    inputs = {"sample": sample, "select": select, "tokenizer": tokenizer}
    with stage(directory, "encode", stage_config(config, kinds, plan), inputs) as work:
        vocabulary, held_out = load_tokenizer(tokenizer), held_out_questions(sample)
        with Stores(work.path, kinds, plan, held_out) as stores:
            done, total = 0, count_records(source)
            for batch in record_batches(source, RECORD_SCHEMA, BATCH):
                records = [record_from_row(row) for row in batch.to_pylist()]
                for record, document in zip(records, encode(vocabulary, records, kinds, config.trace), strict=True):
                    stores.add(record, document)
                done += len(records)
                progress(done, total)
        write_rows(work.path / "rejected.parquet", stores.rejected, REJECTED)
        work.counts = stores.counts()
        work.extra = {
            "kinds": kinds.names,
            "special_ids": vocabulary.special_ids,
            "vocab_size": vocabulary.size,
        }
        if "train" not in work.counts["splits"]:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in work.counts["rejected"].items()) or "none came in"
            raise InputError(
                f"{source}: no document of a training question is left ({reasons}); loosen `select`, sample more "
                "traces or raise plan.capacity"
            )


class Stores:
    """Puts documents that fit into the store of their split, and counts what became of every record."""

    def __init__(self, directory: Path, kinds: Kinds, plan: PlanConfig, held_out: Mapping[str, str]) -> None:
        self.directory, self.kinds, self.plan, self.held_out = directory, kinds, plan, held_out
        self.trace_kinds = np.array([kinds.id(name) for name in kinds.members("trace")])
        self.rejected: list[dict[str, str]] = []
        self.trimmed = 0
        self.lost = np.zeros(len(kinds), np.int64)  # tokens
        self.documents, self.tokens = Counter[str](), Counter[str]()
        self.targets = {split: np.zeros(len(kinds), np.int64) for split in STORES}
        self.writers: dict[str, TokenStoreWriter] = {}
        self.opened = ExitStack()

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *error: Any) -> None:
        self.opened.__exit__(*error)

    def add(self, record: Record, document: Document) -> None:
        """Store a record's document, or reject it. Raises InputError naming the record if its weight is bad, or it
        is too long and ``plan.overlong`` is ``error``."""
        name = f"record {record.record_id} (question {record.question_id})"
        if record.weight is None or not 0 <= record.weight < float("inf"):
            raise InputError(f"{name}: its weight {record.weight} is not a finite number >= 0")
        for part in ("question", "answer"):
            if not getattr(record, part).strip():
                return self.reject(record, f"empty_{part}", "")
        fit = fit_document(name, *document, self.plan.capacity, self.plan.overlong, self.trace_kinds)
        self.lost += np.bincount(fit.lost, minlength=len(self.kinds))
        if fit.outcome == "dropped":
            return self.reject(record, "overlong", f"{len(document.tokens)} tokens, capacity {self.plan.capacity}")
        self.trimmed += fit.outcome == "trimmed"
        split = self.held_out.get(record.question_id, "train")
        if split not in self.writers:
            self.writers[split] = self.opened.enter_context(
                TokenStoreWriter(self.directory / STORES[split], self.kinds)
            )
        self.writers[split].add(record.record_id, record.question_id, fit.tokens, fit.kinds, fit.steps, record.weight)
        self.documents[split] += 1
        self.tokens[split] += len(fit.tokens)
        self.targets[split] += np.bincount(fit.kinds[1:], minlength=len(self.kinds))
        return None

    def reject(self, record: Record, reason: str, detail: str) -> None:
        ids = {"record_id": record.record_id, "question_id": record.question_id}
        self.rejected.append({**ids, "reason": reason, "detail": detail})

    def counts(self) -> dict[str, Any]:
        out = self.documents.total()
        return {
            "in": out + len(self.rejected),
            "out": out,
            "rejected": dict(sorted(Counter(row["reason"] for row in self.rejected).items())),
            "trimmed": self.trimmed,
            "tokens_lost": by_name(self.kinds, self.lost),
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
