"""The stage `sample`: ask teachers for traces, keep each answer in the journal at once, write records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tracestill.data_pipeline.base.content import contents
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, Question, write_rows
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.sampling.files.rejected import by_reason, refuse_too_many, write_rejected
from tracestill.data_pipeline.sampling.files.trace_store import TraceStore
from tracestill.data_pipeline.sampling.heard import Unusable, heard
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.questions import Posed, QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.readers.chain import Chain, Unread
from tracestill.data_pipeline.sampling.reading import Reader, place_of, rejection, text_of
from tracestill.data_pipeline.sampling.sample_config import (
    RECORDED,
    SampleConfig,
    files_of,
    make_teachers,
    reader_files,
)
from tracestill.data_pipeline.sampling.splits import near
from tracestill.data_pipeline.sampling.teachers import Said, Solution, Teacher
from tracestill.data_pipeline.sampling.wanted import Wanted, wanted_samples
from tracestill.data_pipeline.sampling.watch import Watch

MAX_REJECTED = "sample.max_rejected"
REPLAYED = 500  # recorded traces that are journaled at a time
PAUSE = 0.2  # seconds before the second attempt; doubles with each further one

Progress = Callable[[int, int], None]


def stage_config(
    questions: QuestionsConfig, sample: SampleConfig, seed: int, memory: Path | None = None
) -> dict[str, Any]:
    """What identifies a run of this stage; ``stage.is_current`` takes it. ``memory`` is as in ``content.digests``."""
    own = sample.model_dump(mode="json", exclude_defaults=True, exclude={"max_rejected"})
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
    progress: Progress = lambda done, total: None,
    memory: Path | None = None,
) -> None:
    """Pose the questions, ask what the journal lacks, and write questions.parquet and records.parquet.

    Traces of held-out questions serve as references for the loss by kind; encode keeps them apart. Calls
    ``progress(done, total)`` with samples, those found in the journal counted as done. What cannot be used, of the
    source and of what teachers said, lies in rejected.parquet. Raises InputError if a teacher fails ``attempts`` times
    running, or more than ``max_rejected`` of all samples cannot be used; the journal keeps what is done.
    """
    teachers, chain = make_teachers(sample, questions), Chain(sample.readers, sample.checks)
    replays = any(asked.module == RECORDED for asked in teachers.values())
    posed = make_questions(questions, seed, chain.answer if replays else None)
    by_id = {question.question_id: question for question in posed.questions}
    config = stage_config(questions, sample, seed, memory)
    at = 0

    def safe() -> str:
        return f"{at:,} samples are kept in {journal}" if at else f"what {journal} holds is kept"

    with posed.traces, stage(directory, "sample", config, {}, safe) as work, Journal(journal) as book:
        watch = Watch(questions, sample, teachers, book, memory)
        teachers = watch.teachers
        wanted = list(wanted_samples(by_id, teachers, sample, seed, posed.traces))
        refuse_doubles(wanted)
        if not wanted and replays:
            raise InputError(
                f"questions.source: {questions.source} holds no trace that a teacher of the recipe replays"
            )
        done = book.done()
        missing = [each for each in wanted if (each.key.record_id, each.binding) not in done]
        at = len(wanted) - len(missing)
        reader = Reader(chain, by_id)
        by_key = {each.key: each for each in wanted}
        rejected = [rejection(by_key[key], said) for key, said in book.unusable(pairs(wanted))]
        early = list(rejected)
        progress(at, len(wanted))
        for some in replayed(missing):
            book.add_all((each.key, each.binding, replay(each, posed.traces)) for each in some)
            at += len(some)
            progress(at, len(wanted))
        for each in (each for each in missing if each.place is None):
            refuse_too_many(early, len(wanted), sample.max_rejected, MAX_REJECTED, "samples")
            key, question = each.key, by_id[each.key.question_id]
            said = heard(ask(teachers[key.teacher].teacher, question, key, seed, sample.attempts, at, journal))
            watch.look(key.teacher)
            if (fault := unusable(reader, question, said)) is not None:
                early.append(rejection(each, fault))
            if isinstance(said, Unusable):
                rejected.append(early[-1])
            elif isinstance(said, Solution):
                refuse_unknown_kinds(said, key, kinds or Kinds())
            book.add(key, each.binding, said)
            at += 1
            progress(at, len(wanted))
        if written := watch.end():
            kept = {field: held for field, held in config[CONTENTS].items() if field not in written}
            work.extra["config"] = {**config, CONTENTS: kept}
        write_rows(work.path / "records.parquet", reader.rows(book, wanted), RECORD_SCHEMA)
        rejected += reader.rejected
        refuse_too_many(rejected, len(wanted), sample.max_rejected, MAX_REJECTED, "samples")
        write_rows(work.path / "questions.parquet", map(question_row, posed.questions), QUESTION_SCHEMA)
        write_rejected(work.path / "rejected.parquet", [*posed.rejected, *posed.bad_traces, *rejected])
        if posed.near:
            write_rows(work.path / "near_duplicates.parquet", (pair.row() for pair in posed.near), near.SCHEMA)
        if reader.out + len(rejected) != len(wanted):
            raise AssertionError(f"sampling lost records: {len(wanted)} asked, {reader.out} out, {len(rejected)} not")
        work.counts = {
            **counts_of(posed, questions),
            "out": reader.out,
            "asked": len(missing),
            "from_journal": len(wanted) - len(missing),
            "rejected": by_reason(rejected),
            **({"readers": dict(reader.readers.most_common())} if reader.readers else {}),
            **({"checks": dict(reader.checks.most_common())} if reader.checks else {}),
        }


def counts_of(posed: Posed, questions: QuestionsConfig) -> dict[str, Any]:
    """What became of the source, and how many questions each split has."""
    splits = ("train", "test", *(["validation"] if questions.validation else []))
    source = dict(posed.counts)
    if posed.bad_traces:
        source["bad_traces"] = by_reason(posed.bad_traces)
    if posed.read_as:
        source["read_as"] = posed.read_as
    return {"source": source, **{f"{s}_questions": sum(each.split == s for each in posed.questions) for s in splits}}


def question_row(question: Question) -> dict[str, Any]:
    return {**vars(question), "metadata": json.dumps(question.metadata, sort_keys=True)}


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


def replayed(missing: Sequence[Wanted]) -> Iterator[list[Wanted]]:
    """Recorded traces, some at a time."""
    left = [each for each in missing if each.place is not None]
    yield from (left[at : at + REPLAYED] for at in range(0, len(left), REPLAYED))


def replay(sample: Wanted, traces: TraceStore) -> Said | Unusable:
    assert sample.place is not None
    said = heard(traces.read(sample.place))
    assert not isinstance(said, Solution)
    return said


def unusable(reader: Reader, question: Question, said: Solution | Said | Unusable) -> Unusable | None:
    """Why what a teacher said gives no record, if it is seen at once."""
    if isinstance(said, Unusable):
        return said
    read = reader.read(question, said)
    return Unusable(read.reason, read.detail, text_of(said)) if isinstance(read, Unread) else None


def refuse_unknown_kinds(solution: Solution, key: Key, kinds: Kinds) -> None:
    known = kinds.members("trace")
    if unknown := [span.kind for span in solution.spans or () if span.kind not in known]:
        raise InputError(
            f"{place_of(key)}: span kind '{unknown[0]}' is no kind of the trace ({', '.join(known)}); "
            "name it under kinds in the recipe"
        )


def ask(teacher: Teacher, question: Question, key: Key, seed: int, attempts: int, at: int, journal: Path) -> Any:
    """What a teacher says for one sample; a failing teacher is asked ``attempts`` times."""
    for attempt in range(attempts):
        try:
            return teacher.solve(question, style=key.style, temperature=key.temperature, seed=key.seed(seed))
        except InputError:
            raise
        except Exception as error:  # a teacher may be anybody's code or a remote service
            if attempt + 1 == attempts:
                raise InputError(
                    f"teacher '{key.teacher}' failed {attempts} times on question {key.question_id} "
                    f"({type(error).__name__}: {error}); {at} samples are kept in {journal}: mend the teacher and run "
                    "again, only missing samples are asked"
                ) from error
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError("unreachable")
