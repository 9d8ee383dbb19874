"""The stage `sample`: ask teachers for traces, keep each answer in the journal at once, write records."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import contents, named_files
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import QUESTION_SCHEMA, RECORD_SCHEMA, Question, weight_fault, write_rows
from tracestill.data_pipeline.base.stage import CONTENTS, stage
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.sampling.heard import Unusable, heard
from tracestill.data_pipeline.sampling.journal import MODULE, Journal, Key, binding_of
from tracestill.data_pipeline.sampling.questions import QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.rejected import SHARE, Rejected, by_reason, refuse_too_many, write_rejected
from tracestill.data_pipeline.sampling.teachers import Solution, Teacher, is_own, make_teacher

MAX_REJECTED = "sample.max_rejected"
PAUSE = 0.2  # seconds before the second attempt; doubles with each further one

Progress = Callable[[int, int], None]


class TeacherConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Name = Field(min_length=1, description="names the teacher in records and reports")
    use: Name | None = Field(None, description="its task module; null: the one that poses the questions")
    options: dict[str, Any] = Field({}, description="the teacher's own options")


class SampleConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    teachers: tuple[TeacherConfig, ...] = Field(min_length=1, description="who answers")
    styles: tuple[str, ...] = Field(("",), min_length=1, description="system prompts")
    temperatures: tuple[float, ...] = Field((1.0,), min_length=1, description=">= 0; 0 is the most likely trace")
    samples: int = Field(1, ge=1, description="traces for each question, teacher, style and temperature")
    test_samples: int = Field(
        1,
        ge=0,
        description="traces for each held-out question (test, validation) and teacher, at the first style and "
        "temperature; never trained on, the loss by kind is measured on them",
    )
    attempts: int = Field(3, ge=1, description="times that a failing teacher is asked for one sample")
    max_rejected: float = Field(
        SHARE, ge=0, le=1, description="share of all samples that may be unusable; with more, sampling ends at once"
    )

    @field_validator("teachers", "styles", "temperatures")
    @classmethod
    def _distinct(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        names = [value.name if isinstance(value, TeacherConfig) else value for value in values]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{name!r} occurs twice; each must be different")
        return values

    @field_validator("temperatures")
    @classmethod
    def _not_negative(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0 <= value < float("inf") for value in values):
            raise ValueError("a temperature is a number >= 0")
        return values


@dataclass(frozen=True)
class Asked:
    """A teacher ready to answer, and what identifies it."""

    teacher: Teacher
    module: str
    options: dict[str, Any]  # defaults filled in
    changed: str = ""  # as Journal.changed says


def make_teachers(sample: SampleConfig, questions: QuestionsConfig) -> dict[str, Asked]:
    """The teachers by name. Raises InputError for an unknown module or option: good for checking a recipe, too.
    Who only looks gets none of the user's own."""
    found = {}
    for position, config in enumerate(sample.teachers):
        field = f"sample.teachers.{position}"
        module = config.use or questions.source
        if module.endswith(".jsonl"):
            raise InputError(f"{field}.use: the questions come from a file, so name the task that answers them")
        if own_modules.is_looking() and is_own(module):
            continue
        teacher, options = make_teacher(module, config.options, f"{field}.use")
        found[config.name] = Asked(teacher, module, options)
    return found


def stage_config(
    questions: QuestionsConfig, sample: SampleConfig, seed: int, memory: Path | None = None
) -> dict[str, Any]:
    """What identifies a run of this stage; ``stage.is_current`` takes it. ``memory`` is as in ``content.digests``."""
    own = sample.model_dump(mode="json", exclude_defaults=True, exclude={"max_rejected"})
    named = questions.named()
    for position, teacher in enumerate(sample.teachers):
        for field, files in files_of(teacher, questions).items():
            named[f"sample.teachers.{position}.{field}"] = files
    found = contents(named, memory)
    return {"questions": questions.identity(), "sample": own, "seed": seed, **({CONTENTS: found} if found else {})}


def files_of(teacher: TeacherConfig, questions: QuestionsConfig) -> dict[str, dict[str, Path]]:
    """Field -> name -> path of the files that decide what a teacher says: its own module, and what its options name."""
    module = teacher.use or questions.source
    own = {"module": own_modules.files(module)} if not module.endswith(".jsonl") and is_own(module) else {}
    return own | named_files(teacher.options, "options")


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
    ``progress(done, total)`` with samples, those found in the journal counted as done. What cannot be used lies in
    rejected_questions.parquet and rejected.parquet. Raises InputError if a teacher fails ``attempts`` times running,
    or more than ``max_rejected`` of all samples cannot be used; the journal keeps what is done.
    """
    known = (kinds or Kinds()).members("trace")
    teachers = make_teachers(sample, questions)
    posed = make_questions(questions, seed)
    by_id = {question.question_id: question for question in posed.questions}
    config = stage_config(questions, sample, seed, memory)
    at = 0

    def safe() -> str:
        return f"{at:,} samples are kept in {journal}" if at else f"what {journal} holds is kept"

    with stage(directory, "sample", config, {}, safe) as work, Journal(journal) as book:
        watch = Watch(questions, sample, teachers, book, memory)
        teachers = watch.teachers
        wanted = list(keys(by_id, teachers, sample, seed))
        done = book.done()
        missing = [pair for pair in wanted if (pair[0].record_id, pair[1]) not in done]
        at = len(wanted) - len(missing)
        rejected = [rejection(key, unusable) for key, unusable in book.unusable(wanted)]
        progress(at, len(wanted))
        for key, binding in missing:
            refuse_too_many(rejected, len(wanted), sample.max_rejected, MAX_REJECTED, "samples")
            said = ask(teachers[key.teacher].teacher, by_id[key.question_id], key, seed, sample.attempts, at, journal)
            watch.look(key.teacher)
            solution = heard(said)
            if isinstance(solution, Unusable):
                rejected.append(rejection(key, solution))
            elif unknown := [span.kind for span in solution.spans or () if span.kind not in known]:
                raise InputError(
                    f"{place_of(key)}: span kind '{unknown[0]}' is no kind of the trace ({', '.join(known)}); "
                    "name it under kinds in the recipe"
                )
            book.add(key, binding, solution)
            at += 1
            progress(at, len(wanted))
        if written := watch.end():
            kept = {field: held for field, held in config[CONTENTS].items() if field not in written}
            work.extra["config"] = {**config, CONTENTS: kept}
        records = []
        for key, solution in book.rows(wanted):
            row = row_of(by_id[key.question_id], key, solution)
            if fault := weight_fault(row["weight"]):  # each is one, their product is not
                detail = f"its weight {solution.weight} times its question's: {fault}"
                rejected.append(Rejected(place_of(key), "bad_weight", detail, ascii(solution)))
            else:
                records.append(row)
        refuse_too_many(rejected, len(wanted), sample.max_rejected, MAX_REJECTED, "samples")
        rows = [
            {**asdict(question), "metadata": json.dumps(question.metadata, sort_keys=True)}
            for question in posed.questions
        ]
        write_rows(work.path / "questions.parquet", rows, QUESTION_SCHEMA)
        write_rows(work.path / "records.parquet", records, RECORD_SCHEMA)
        write_rejected(work.path / "rejected_questions.parquet", posed.rejected)
        write_rejected(work.path / "rejected.parquet", rejected)
        if len(records) + len(rejected) != len(wanted):
            raise AssertionError(f"sampling lost records: {len(wanted)} asked, {len(records)} out, {len(rejected)} not")
        work.counts = {
            "source": posed.counts,
            **{
                f"{split}_questions": sum(question.split == split for question in posed.questions)
                for split in ("train", "test", *(["validation"] if questions.validation else []))
            },
            "out": len(records),
            "asked": len(missing),
            "from_journal": len(wanted) - len(missing),
            "rejected": by_reason(rejected),
        }


class Watch:
    """Knows what each teacher's files held before it was asked, and finds out which of them it writes itself."""

    def __init__(
        self,
        questions: QuestionsConfig,
        sample: SampleConfig,
        teachers: dict[str, Asked],
        book: Journal,
        memory: Path | None,
    ) -> None:
        """``teachers`` of the journal know afterwards whether their files hold something else than at first."""
        self.book, self.memory, self.questions = book, memory, questions
        self.configs = {config.name: (position, config) for position, config in enumerate(sample.teachers)}
        self.before = {name: self.files(name) for name in teachers}
        self.asked: set[str] = set()
        self.teachers = {
            name: replace(asked, changed=book.changed(asked.module, asked.options, self.before[name]))
            for name, asked in teachers.items()
        }

    def files(self, name: str) -> dict[str, str]:
        """Field/name -> sha256 of a teacher's files."""
        found = contents(files_of(self.configs[name][1], self.questions), self.memory)
        return {f"{field}/{file}": digest for field, held in found.items() for file, digest in held.items()}

    def look(self, name: str) -> None:
        """Called after an answer: the first of each teacher tells already, so that an interrupt costs no other."""
        if name not in self.asked:
            self.asked.add(name)
            self.note(name)

    def note(self, name: str) -> None:
        """Let the journal forget the files that have changed since the teacher was asked.

        Not those of its module: somebody has mended that meanwhile, and is to have it asked anew.
        """
        now, asked = self.files(name), self.teachers[name]
        before = {file: digest for file, digest in self.before[name].items() if not file.startswith(MODULE)}
        changed = [file for file, digest in before.items() if now.get(file) != digest]
        if changed:
            self.book.written(asked.module, asked.options, changed)

    def end(self) -> set[str]:
        """Full names of the options whose files do not count, as teachers write them."""
        found = set()
        for name, (position, _) in self.configs.items():
            if name in self.asked:
                self.note(name)
            known = self.book.first_seen(self.teachers[name].module, self.teachers[name].options)
            fields = {file.partition("/")[0] for file in self.before[name].keys() - known.keys()}
            found |= {f"sample.teachers.{position}.{field}" for field in fields if field.startswith("options")}
        return found


def keys(
    by_id: dict[str, Question], teachers: dict[str, Asked], sample: SampleConfig, seed: int
) -> Iterator[tuple[Key, str]]:
    """Each sample's key and binding, question by question."""
    for question_id, question in by_id.items():
        for name, asked in teachers.items():
            binding = binding_of(asked.module, asked.options, seed, question, asked.changed)
            held_out = question.split != "train"
            for style in sample.styles[:1] if held_out else sample.styles:
                for temperature in sample.temperatures[:1] if held_out else sample.temperatures:
                    for index in range(sample.test_samples if held_out else sample.samples):
                        yield Key(question_id, name, style, temperature, index), binding


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


def rejection(key: Key, unusable: Unusable) -> Rejected:
    return Rejected(place_of(key), unusable.reason, unusable.detail, unusable.said)


def place_of(key: Key) -> str:
    return f"teacher '{key.teacher}' on question {key.question_id}"


def row_of(question: Question, key: Key, solution: Solution) -> dict[str, Any]:
    return {
        "record_id": key.record_id,
        "question_id": question.question_id,
        "question": question.question,
        "gold": question.gold,
        "trace": solution.trace,
        "answer": solution.answer,
        "spans": [asdict(span) for span in solution.spans or ()],
        "weight": question.weight * solution.weight,
        "teacher": key.teacher,
        "style": key.style,
        "temperature": key.temperature,
        "index": key.index,
    }
