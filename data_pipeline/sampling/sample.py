"""The stage `sample`: ask teachers for traces, keep each answer in the journal at once, write records."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, Question, write_rows
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.sampling.ask_all import MAX_REJECTED, Asking, Progress
from tracestill.data_pipeline.sampling.asking.styles import tagged
from tracestill.data_pipeline.sampling.files.rejected import by_reason, refuse_too_many, write_rejected
from tracestill.data_pipeline.sampling.files.trace_store import TraceStore
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.questions import Posed, QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.sampling.reading import Reader, rejection
from tracestill.data_pipeline.sampling.sample_config import (
    RECORDED,
    Asked,
    SampleConfig,
    files_of,
    make_teachers,
    reader_files,
)
from tracestill.data_pipeline.sampling.splits import near
from tracestill.data_pipeline.sampling.teachers import FAILURES, Said, recorded
from tracestill.data_pipeline.sampling.wanted import REVISION, Course, Wanted
from tracestill.data_pipeline.sampling.watch import Watch

REVISIONS = pa.schema([("record_id", pa.string()), ("revises", pa.string()), ("critique", pa.string())])
DETAILS = pa.schema([("record_id", pa.string()), ("details", pa.string())])  # JSON: tokens, cost, logprobs


def stage_config(
    questions: QuestionsConfig, sample: SampleConfig, seed: int, memory: Path | None = None
) -> dict[str, Any]:
    """What identifies a run of this stage; ``stage.is_current`` takes it. ``memory`` is as in ``content.digests``."""
    own = sample.model_dump(mode="json", exclude_defaults=True, exclude={"max_rejected", "max_failed"})
    named = questions.named()
    for position, teacher in enumerate(sample.teachers):
        for field, files in files_of(teacher, questions).items():
            named[f"sample.teachers.{position}.{field}"] = files
    found = contents(named | reader_files(sample), memory)
    held = {"questions": questions.identity(), "sample": own, "seed": seed, "columns": RECORD_SCHEMA.names}
    return {
        **held,
        **({CONTENTS: found} if found else {}),
    }  # records of other columns are written anew, from the journal


def run(
    questions: QuestionsConfig,
    sample: SampleConfig,
    *,
    seed: int,
    directory: Path,
    journal: Path,
    kinds: Kinds | None = None,
    progress: Progress = lambda done, total, note="": None,
    memory: Path | None = None,
) -> None:
    """Pose the questions, ask what the journal lacks, and write questions.parquet and records.parquet.

    Traces of held-out questions serve as references for the loss by kind; encode keeps them apart. Calls
    ``progress(done, total, note)`` with samples, those found in the journal counted as done. What cannot be used, of
    the source and of what teachers said, lies in rejected.parquet. Raises InputError if a teacher fails ``attempts``
    times running, or more than ``max_rejected`` of all samples cannot be used; the journal keeps what is done.
    """
    teachers, chain = make_teachers(sample, questions), Chain(sample.readers, sample.checks)
    replays = any(asked.module == RECORDED for asked in teachers.values())
    posed = make_questions(questions, seed, chain.answer if replays else None)
    by_id = {question.question_id: question for question in posed.questions}
    config = stage_config(questions, sample, seed, memory)
    at = 0

    def count(done: int, total: int, note: str = "") -> None:
        nonlocal at
        at = done
        progress(done, total, note)

    def safe() -> str:
        return f"{at:,} samples are kept in {journal}" if at else f"what {journal} holds is kept"

    with posed.traces, stage(directory, "sample", config, {}, safe) as work, Journal(journal) as book:
        watch = Watch(questions, sample, teachers, book, memory)
        teachers = watch.teachers
        refuse_strangers(teachers, posed.traces)
        reader = Reader(chain, by_id, sample.tags)
        course = Course(by_id, teachers, sample, seed, posed.traces, reader.trace_of)
        asking = Asking(book, course, reader, watch, posed.traces, sample, seed, kinds or Kinds(), count)
        spent = asking.run()
        unpaid = {each.key for each in asking.unpaid}
        wanted = [each for each in course.all() if each.key not in unpaid]
        if not wanted:
            raise InputError(nothing_asked(questions, sample, replays))
        refuse_doubles(wanted)
        if written := watch.end():
            kept = {field: held for field, held in config[CONTENTS].items() if field not in written}
            work.extra["config"] = {**config, CONTENTS: kept}
        write_rows(work.path / "records.parquet", reader.rows(book, wanted), RECORD_SCHEMA)
        by_key = {each.key: each for each in wanted}
        rejected = [rejection(by_key[key], said) for key, said in book.unusable(pairs(wanted))] + reader.rejected
        asked_for = [each for each in rejected if each.reason not in FAILURES]
        refuse_too_many(asked_for, len(wanted), sample.max_rejected, MAX_REJECTED, "samples")
        rejected += asking.not_asked()
        tag = sample.tags.get(sample.prompts[0], "")
        rows = (question_row(q, tag, questions.source) for q in posed.questions)
        write_rows(work.path / "questions.parquet", rows, QUESTION_SCHEMA)
        write_rejected(work.path / "rejected.parquet", [*posed.rejected, *posed.bad_traces, *rejected])
        if posed.near:
            write_rows(work.path / "near_duplicates.parquet", (pair.row() for pair in posed.near), near.SCHEMA)
        write_more(work.path, reader, course, book, wanted)
        total = sum(1 for _ in course.all())
        if reader.out + len(rejected) != total:
            raise AssertionError(f"sampling lost records: {total} wanted, {reader.out} out, {len(rejected)} not")
        work.counts = {
            **counts_of(posed, questions),
            "out": reader.out,
            "asked": asking.asked,
            "from_journal": asking.at - asking.asked,
            "rejected": by_reason(rejected),
            **({"readers": dict(reader.readers.most_common())} if reader.readers else {}),
            **({"checks": dict(reader.checks.most_common())} if reader.checks else {}),
            **({"cost": round(spent, 6)} if spent else {}),
        }


def counts_of(posed: Posed, questions: QuestionsConfig) -> dict[str, Any]:
    """What became of the source, and how many questions each split has."""
    splits = ("train", "test", *(["validation"] if questions.validation else []))
    source = dict(posed.counts)
    if posed.bad_traces:
        source["bad_traces"] = by_reason(posed.bad_traces)
    if posed.read_as:
        source["read_as"] = posed.read_as
    if posed.from_traces:
        source["gold_from_traces"] = posed.from_traces
    return {"source": source, **{f"{s}_questions": sum(each.split == s for each in posed.questions) for s in splits}}


def nothing_asked(questions: QuestionsConfig, sample: SampleConfig, replays: bool) -> str:
    if sample.budget is not None:
        return f"sample.budget = {sample.budget} does not pay for one sample: see what max_tokens may cost at its price"
    if replays:
        return f"questions.source: {questions.source} holds no trace that a teacher of the recipe replays"
    return "sample: nothing is asked of any question"


def refuse_strangers(teachers: Mapping[str, Asked], traces: TraceStore) -> None:
    """Raise InputError if a teacher replays somebody's traces of which there are none: a misspelt name, most likely."""
    known = traces.teachers()
    for at, (name, asked) in enumerate(teachers.items()):
        wanted = asked.teacher.options.teacher if isinstance(asked.teacher, recorded.Teacher) else None
        if wanted is not None and wanted not in known and len(traces):
            there = f"they are of {', '.join(known)}" if known else "no file says whose they are"
            raise InputError(
                f"sample.teachers.{at}.options.teacher ({name}): no trace in the files is of '{wanted}'; {there:.300}"
            )


def write_more(directory: Path, reader: Reader, course: Course, book: Journal, wanted: Sequence[Wanted]) -> None:
    """What some runs have: which trace was rewritten after which criticism, and what servers told besides."""
    if course.critiques:
        rows = [
            {"record_id": each.key.record_id, "revises": of, "critique": course.critiques[each.key.record_id]}
            for of, each in course.revised.items()
            if each.part == REVISION
        ]
        write_rows(directory / "revisions.parquet", sorted(rows, key=lambda row: row["record_id"]), REVISIONS)
    if reader.detailed:  # read again: log-probabilities of all records are more than the memory holds
        told = book.rows(pairs([each for each in wanted if each.key.record_id in reader.detailed]))
        more = ({"record_id": k.record_id, "details": json.dumps(s.details)} for k, s in told if isinstance(s, Said))
        write_rows(directory / "details.parquet", more, DETAILS)


def question_row(question: Question, tag: str, source: str) -> dict[str, Any]:
    """``tag``: of the first style, which held-out questions are asked at; ``source``: of those that name none."""
    text = question.question if question.split == "train" else tagged(question.question, tag)
    metadata = json.dumps(question.metadata, sort_keys=True)
    return {**vars(question), "question": text, "metadata": metadata, "source": question.source or source}


def pairs(wanted: Sequence[Wanted]) -> Iterator[tuple[Key, str]]:
    return ((each.key, each.binding) for each in wanted)


def refuse_doubles(wanted: Sequence[Wanted]) -> None:
    """Raise InputError if two teachers give the same sample: both replay traces that a file says one has written."""
    seen: set[Key] = set()
    for each in wanted:
        if each.key in seen:
            raise InputError(
                f"sample.teachers: two of them replay the traces of '{each.key.teacher}'; tell them apart by "
                "options.teacher, or leave one out"
            )
        seen.add(each.key)
