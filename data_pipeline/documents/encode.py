"""The encode stage: selected records become tokenised documents with a kind and a step for every token."""

from __future__ import annotations

import hashlib
import socket
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.batches import Rows
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.room import cause_of
from tracestill.data_pipeline.base.schema import (
    QUESTION_SCHEMA,
    RECORD_SCHEMA,
    Record,
    read_rows,
    record_from_row,
    write_rows,
)
from tracestill.data_pipeline.base.stage import CONTENTS, MANIFEST, stage
from tracestill.data_pipeline.base.workers import Lost, WorkerDied, Workers, cores, hired, in_order, who_kills
from tracestill.data_pipeline.documents.chat import ChatLayout
from tracestill.data_pipeline.documents.document import PlainLayout
from tracestill.data_pipeline.documents.facts import Facts
from tracestill.data_pipeline.documents.made import Bounds, Made, name_of
from tracestill.data_pipeline.documents.round_trip import RoundTrip
from tracestill.data_pipeline.documents.two_task import TwoTaskLayout
from tracestill.data_pipeline.granularity import Granularity, GranularityConfig, granularity
from tracestill.data_pipeline.plan.plan import PlanConfig
from tracestill.data_pipeline.segmentation import SegmentConfig, Segmenter, segmenter
from tracestill.data_pipeline.tokens.columns import FILE, ColumnsWriter
from tracestill.data_pipeline.tokens.layout import Layout, LayoutConfig
from tracestill.data_pipeline.tokens.render import load_tokenizer
from tracestill.data_pipeline.tokens.sides import EncoderDecoderLayout
from tracestill.data_pipeline.tokens.store import Documents, TokenStoreWriter
from tracestill.data_pipeline.tokens.tokenizer import TokenizerConfig, held_out_questions

SEGMENT = SegmentConfig()
BATCH = 128  # records that go to a worker at a time
FEW = 1024  # records, at least, for each process: about as long as it takes to start
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

    workers: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="processes that encode; null: one a core, this one alone for few records. The result is the same",
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
        **config.model_dump(mode="json", exclude={"tokenizer", "trace", "workers"}, exclude_defaults=True),
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
    tokenizer does to their text is counted too (see ``round_trip``). ``progress`` is told records done and in all. All
    of it is the same for any number of ``config.workers``, and for the workers of ``workers.using``.

    Raises InputError naming the record whose spans or weight are bad or which is too long (policy ``error``), which
    raises in somebody's code or ends the worker that it is in, if no training document is left, or if more than
    ``config.max_lossy`` of the records lose characters.
    """
    source = select / "records.parquet"
    inputs = {"sample": sample, "select": select, "tokenizer": tokenizer}
    Segmenter(segment)  # says what is wrong with it before anything is done, as does
    granularity_of(config, kinds)
    with stage(directory, "encode", stage_config(config, kinds, plan, segment, memory, positions), inputs) as work:
        bounds = Bounds(kinds, plan, positions)
        job = Job(config, segment, bounds, tokenizer, own_digest(tokenizer), own_modules.folder(), uuid.uuid4().hex)
        tools, held_out = tools_of(job), held_out_questions(sample)
        records = Rows(source, RECORD_SCHEMA)
        for key, text in config.own_texts().items():
            tools.trip.check_setting(key, text)
        if config.marks is not None:
            tools.trip.check_setting("encode.form", config.marks.closing)
        found, total = Made(bounds), len(records)
        batches = (batch_of(job, rows, held_out) for rows in records.batches(BATCH))
        facts = Facts(sample, select, plan.own_columns)
        with Stores(work.path, kinds, facts) as stores, hired(config.workers or workers_for(total)) as workers:
            for made, documents in encoded(workers, batches):
                stores.write(documents, made.rows)
                found.join(made)
                progress(found.read, total)
        write_rows(work.path / "rejected.parquet", found.rejected, REJECTED)
        questions = read_rows(sample / "questions.parquet", QUESTION_SCHEMA)
        tools.trip.lost = found.lost_text
        tools.trip.add_questions([row for row in questions if row["question_id"] in held_out])
        tools.trip.check(config.max_lossy, str(source))
        found.notes += found.lost_text.notes
        work.counts = found.counts(tools.trip.unknown_tokens())
        layout, lost_text = tools.layout, tools.trip.findings()
        work.extra = {
            "kinds": kinds.names,
            "special_ids": layout.special_ids,
            "vocab_size": layout.size,
            **({"form": layout.findings} if layout.findings else {}),
            **({"lost_text": lost_text, "warnings": tools.trip.warnings()} if lost_text else {}),
        }
        if "train" not in work.counts["splits"]:
            reasons = ", ".join(f"{reason}: {n}" for reason, n in work.counts["rejected"].items()) or "none came in"
            raise InputError(
                f"{source}: no document of a training question is left ({reasons}); loosen `select`, sample more "
                "traces or raise plan.capacity"
            )


def workers_for(records: int) -> int:
    """Processes that pay for so many records: one needs most of a second of the CPU to start."""
    return max(1, min(cores(), records // FEW))


def granularity_of(config: EncodeConfig, kinds: Kinds) -> Granularity:
    """Raises InputError for a function of the user's that is not there."""
    return Granularity(config.granularity if config.trace == "keep" else GranularityConfig(), kinds)


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


@dataclass(frozen=True)
class Job:
    """What turns records into documents, wherever it is done."""

    config: EncodeConfig
    segment: SegmentConfig
    bounds: Bounds
    tokenizer: Path
    made: str  # digest of the tokenizer's manifest
    folder: Path | None  # the recipe's, in which modules of the user's may lie
    id: str  # another one in each run of the stage


@dataclass(frozen=True)
class Batch:
    """Some rows of records, and the splits of the held-out questions among them."""

    job: Job
    rows: pa.Table
    held_out: dict[str, str]


def batch_of(job: Job, rows: pa.Table, held_out: Mapping[str, str]) -> Batch:
    questions = rows.column("question_id").to_pylist()
    return Batch(job, rows, {question: held_out[question] for question in questions if question in held_out})


class Tools:
    """What a job needs, made once in each process."""

    def __init__(self, job: Job) -> None:
        """Raises InputError as ``load_layout`` does, and if this host has another tokenizer than the job."""
        if own_digest(job.tokenizer) != job.made:
            raise InputError(
                f"host {socket.gethostname()}: {job.tokenizer} is not there, or is another one than on the first host; "
                "all hosts must see the run directory under the same path: put it on a file system that they share"
            )
        own_modules.search(job.folder)
        self.job = job
        self.cut = Segmenter(job.segment)
        self.keep = granularity_of(job.config, job.bounds.kinds)
        self.layout = load_layout(job.config, job.tokenizer)
        self.trip = RoundTrip(job.tokenizer, job.bounds.kinds, with_trace=job.config.trace == "keep")


_tools: Tools | None = None


def own_digest(tokenizer: Path) -> str:
    path = tokenizer / MANIFEST
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def tools_of(job: Job) -> Tools:
    """The tools of a job; those of the last one are kept."""
    global _tools
    if _tools is None or _tools.job.id != job.id:
        _tools = Tools(job)
    return _tools


def encode_records(records: Sequence[Record], held_out: Mapping[str, str], tools: Tools) -> Made:
    """What becomes of some records. Raises InputError naming one whose spans or weight are bad, or that is too long."""
    made = Made(tools.job.bounds, held_out)
    made.read = len(records)
    cut = [record for record in tools.cut.all(records) if not made.lacks_spans(record)]
    if tools.keep.config.cuts:
        cut = made.cut(cut, tools.keep, tools.trip)
    for record, encoded in zip(cut, tools.layout.encode(cut, tools.job.bounds.kinds), strict=True):
        made.add(record, encoded)
    made.lost_text = tools.trip.of(cut)
    return made


def encode_batch(batch: Batch) -> tuple[Made, dict[str, Documents]]:
    """What a worker does: ``encode_records`` of a batch, and the documents by split.

    Raises InputError as that does, and naming the record if somebody's code raises.
    """
    tools = tools_of(batch.job)
    records = [record_from_row(row) for row in batch.rows.to_pylist()]
    try:
        made = encode_records(records, batch.held_out, tools)
    except Exception as error:
        if isinstance(error, InputError) or cause_of(error) is not None:
            raise
        raise InputError(f"{who_raises(records, tools)}: {own_modules.place_of(error)}{told(error)}") from error
    return made, made.take()


def who_raises(records: Sequence[Record], tools: Tools) -> str:
    """The first record that raises by itself; if none does, the first and the last of them."""
    for record in records:
        try:
            encode_records([record], {}, tools)
        except Exception:
            return name_of(record)
    return f"{name_of(records[0])} to {name_of(records[-1])}"


def told(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def encoded(workers: Workers, batches: Iterable[Batch]) -> Iterator[tuple[Made, dict[str, Documents]]]:
    """``encode_batch`` of each, in their order. Raises WorkerDied naming the record if one ends its worker."""
    try:
        yield from in_order(workers, encode_batch, batches)
    except Lost as lost:
        raise WorkerDied(who_ends(lost.tasks)) from lost


def who_ends(batches: Sequence[Batch]) -> str:
    """What to say of batches that were on their way when a worker died: which record ends the process that does it."""
    at = who_kills(encode_batch, batches)
    if at is not None:
        batch = batches[at]
        single = [Batch(batch.job, batch.rows.slice(i, 1), batch.held_out) for i in range(batch.rows.num_rows)]
        row = batch.rows.slice(who_kills(encode_batch, single) or 0, 1).to_pylist()[0]
        name = f"record {row['record_id']} (question {row['question_id']})"
        return f"{name}: the process that encodes it ends without an error; take it out of the records"
    first, last = batches[0].rows.column("record_id")[0], batches[-1].rows.column("record_id")[-1]
    return (
        f"records {first} to {last}: a process that encoded some of them was killed, and none of them does that by "
        "itself; run the same command again, with fewer encode.workers if memory ran out"
    )


class Stores:
    """Writes documents into the store of their split, and what is known of those of training questions beside it."""

    def __init__(self, directory: Path, kinds: Kinds, facts: Facts) -> None:
        self.directory, self.kinds, self.facts = directory, kinds, facts
        self.writers: dict[str, TokenStoreWriter] = {}
        self.table: ColumnsWriter | None = None
        self.opened = ExitStack()

    def __enter__(self) -> Stores:
        return self

    def __exit__(self, *error: Any) -> None:
        self.opened.__exit__(*error)

    def write(self, documents: Mapping[str, Documents], rows: Mapping[str, list[Any]]) -> None:
        """``rows``: as of ``Made.rows``."""
        for split, own in documents.items():
            if split not in self.writers:
                path = self.directory / STORES[split]
                self.writers[split] = self.opened.enter_context(TokenStoreWriter(path, self.kinds))
            self.writers[split].extend(own)
        if rows:
            if self.table is None:
                self.table = self.opened.enter_context(ColumnsWriter(self.directory / FILE, self.facts.types))
            self.table.add(self.facts.table(rows))
