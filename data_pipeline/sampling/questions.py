"""Questions of a run: from a task module or from a file of lines, the splits apart from each other by content."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import named_files, read_digest
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.base.schema import Question, content_id, weight_fault
from tracestill.data_pipeline.base.stage import UNKNOWN
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.guards.well_formed import json_fault
from tracestill.data_pipeline.sampling.files.fields import FieldsConfig
from tracestill.data_pipeline.sampling.files.formats import HUB, is_files, parts_of
from tracestill.data_pipeline.sampling.files.gather import FileConfig, Gathered, GoldOf, gather
from tracestill.data_pipeline.sampling.files.rejected import SHARE, Rejected, by_reason, listed, refuse_too_many
from tracestill.data_pipeline.sampling.files.trace_store import TraceStore
from tracestill.data_pipeline.sampling.readers.chain import Chain
from tracestill.data_pipeline.sampling.splits.near import MISSING, NearConfig, Pair, near_pairs
from tracestill.data_pipeline.sampling.splits.overlap import Benchmarks
from tracestill.data_pipeline.sampling.splits.share_out import share_out
from tracestill.data_pipeline.sampling.teachers import is_own, question_function

MAX_REJECTED = "questions.max_rejected"
OF_FILES = ("fields", "split", "columns", "escapes", "keep_groups", "near_duplicates", "decontaminate")


class QuestionsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Name = Field(
        description="a task of data_pipeline/sampling/teachers, a dotted module, or a file (*.jsonl, *.json, "
        "*.parquet, *.arrow, *.csv, *.tsv, packed by gzip or zstd), a directory of such (with a /), or hf://owner/name"
    )
    train: int | None = Field(
        None, ge=1, description="questions that teachers answer; null, of files: all that are left"
    )
    test: int | None = Field(
        None,
        ge=0,
        description="held-out questions, never shown to a teacher or a student in training; null, of files: those that "
        "they name, or else a tenth, at most 1,000",
    )
    validation: int = Field(
        0, ge=0, description="held-out questions that training may look at to choose a checkpoint; apart from test"
    )
    fields: FieldsConfig = Field(
        FieldsConfig(), description="of a file, which field means what; null: as recognised, none: not looked for"
    )
    split: Literal["train", "validation", "test"] | None = Field(
        None, description="of all rows of the file that name none"
    )
    columns: tuple[str, ...] | None = Field(None, description="of a table whose first line does not name them")
    escapes: bool = Field(False, description="\\n and \\t, written out in texts, stand for a line break and a tab")
    files: tuple[FileConfig, ...] = Field(
        (), description="more files, whose rows are joined with these by question; beside a module, traces of its own"
    )
    keep_groups: bool = Field(True, description="questions of one group, of files that name groups, go into one split")
    near_duplicates: NearConfig = Field(
        NearConfig(), description="training questions of files that are nearly held-out ones"
    )
    decontaminate: tuple[Name, ...] = Field(
        (),
        description="files of benchmarks: questions whose text or traces share 13 words in a row with one are left out",
    )
    options: dict[str, Any] = Field({}, description="the source's own options")
    max_rejected: float = Field(
        SHARE, ge=0, le=1, description="share of lines or questions that may be unusable; with more, nothing is sampled"
    )

    @property
    def is_file(self) -> bool:
        return is_files(self.source)

    @model_validator(mode="after")
    def _known_source(self) -> QuestionsConfig:
        if self.is_file:
            if self.options:
                raise ValueError(f"questions.options: a file takes no options, got {', '.join(self.options)}")
            return self
        for name in OF_FILES:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"questions.{name}: is for files; '{self.source}' is a module")
        if any(file.general for file in self.files):
            raise ValueError(f"questions.files: general texts stand beside files; '{self.source}' is a module")
        for name in ("train", "test"):
            if getattr(self, name) is None:
                raise ValueError(f"questions.{name}: a module has to be told how many questions to pose")
        if not (own_modules.is_looking() and is_own(self.source)):
            check_options(question_function(self.source, "questions.source")[1], self.options, "questions.options")
        return self

    def all_files(self) -> list[FileConfig]:
        """The source, if it is a file, and the others."""
        if not self.is_file:
            return list(self.files)
        own = FileConfig(
            path=self.source, fields=self.fields, split=self.split, columns=self.columns, escapes=self.escapes
        )
        return [own, *self.files]

    def identity(self) -> dict[str, Any]:
        """The config for a manifest: with a digest of the file, if the source is one."""
        held = self.model_dump(mode="json", exclude_defaults=True, exclude={"max_rejected"})
        if not self.is_file:
            return held
        if self.source.startswith(HUB):
            return held
        path = Path(self.source)
        if path.is_file():
            return {**held, "file": read_digest(path)}
        if path.is_dir():
            return held
        if own_modules.is_looking():
            return {**held, "file": UNKNOWN}
        raise InputError(f"questions.source: no file {path}")

    def named(self) -> dict[str, dict[str, Path]]:
        """Field -> name -> path of the files outside of the run that the questions come from."""
        more = {f"questions.files.{at}.path": files_at(each.path) for at, each in enumerate(self.files)}
        if not self.is_file:
            module = own_modules.files(self.source) if is_own(self.source) else {}
            return {"questions.module": module} | named_files(self.options, "questions.options") | more
        more |= {f"questions.decontaminate.{at}": files_at(path) for at, path in enumerate(self.decontaminate)}
        return {"questions.source": files_at(self.source)} | more


def files_at(source: str) -> dict[str, Path]:
    """Name -> path of the files that a source consists of; of the hub's, and of what is not there, none."""
    path = Path(source)
    if path.is_dir():
        with contextlib.suppress(InputError):
            return {str(part.path.relative_to(path)): part.path for part in parts_of(source)}
    return {} if source.startswith(HUB) or path.is_dir() else {"": path}


@dataclass(frozen=True)
class Posed:
    """Questions of all splits, and what became of everything else that the source held."""

    questions: list[Question]  # training ones first
    rejected: list[Rejected]
    counts: dict[str, Any]  # in = used + duplicates + joined + unused + the sum of rejected by reason
    traces: TraceStore = field(default_factory=TraceStore)  # that the source holds of the questions
    bad_traces: list[Rejected] = field(default_factory=list)
    near: list[Pair] = field(default_factory=list)  # training questions that are nearly held-out ones
    read_as: dict[str, str] = field(default_factory=dict)  # file -> how its rows were read
    says_split: bool = False  # whether rows or files name splits
    from_traces: int = 0  # questions of the source whose gold answer is what their traces say


def make_questions(config: QuestionsConfig, seed: int, gold_of: GoldOf | None = None) -> Posed:
    """Questions of all splits, equal for equal arguments.

    ``gold_of``: given where a teacher replays what the source holds; it reads the answer of a trace whose question has
    no gold one. Raises InputError if the source has too few, if more than ``config.max_rejected`` of it cannot be
    used, or if a module gives a question twice or in two splits.
    """
    if config.is_file:
        return from_files(config, seed, gold_of)
    assert config.train is not None
    assert config.test is not None
    wanted = {"train": config.train, "test": config.test}
    if config.validation:  # task modules that know two splits only need not be told
        wanted["validation"] = config.validation
    return from_module(config, wanted, seed, gold_of)


def from_module(config: QuestionsConfig, wanted: dict[str, int], seed: int, gold_of: GoldOf | None = None) -> Posed:
    """Questions of a task module. A question that cannot be kept is rejected, and its split is one smaller. Of files,
    the traces of these questions are taken; rows of others are counted as unused."""
    who = f"questions.source: '{config.source}'"
    function, model = question_function(config.source, "questions.source")
    given = list(function(wanted, check_options(model, config.options, "questions.options"), seed))
    found, rejected, splits = [], [], Counter[str]()
    for at, question in enumerate(given):
        split = getattr(question, "split", None)
        splits[split if isinstance(split, str) else f"of {type(question).__name__}"] += 1
        if fault := question_fault(question):
            rejected.append(Rejected(f"{who}, question {at}", *fault, ascii(question)))
        else:
            found.append(question)
    if splits != +Counter(wanted):
        raise InputError(f"{who} gave {dict(splits)} questions, expected {wanted}")
    refuse_too_many(rejected, len(given), config.max_rejected, MAX_REJECTED, "questions")
    seen: dict[str, Question] = {}
    for question in found:
        if question.question_id != content_id(question.question):
            raise InputError(f"{who} gave a question whose id is not content_id(question): {question.question[:80]!r}")
        if (other := seen.setdefault(question.question_id, question)) is not question:
            raise InputError(
                f"{who} gave the same question twice ({other.split} and {question.split}): {question.question[:80]!r}"
            )
    questions = sorted(found, key=lambda question: question.split != "train")
    counts: dict[str, Any] = counted(len(given), len(found), 0, 0, rejected)
    if gold_of is None or not config.files:
        return Posed(questions, rejected, counts)
    held = gather(config.all_files(), gold_of, with_traces=True)
    refuse_too_many(held.rejected, held.total, config.max_rejected, MAX_REJECTED, "lines")
    unused = sum(held.traces.forget(question_id) for question_id in held.traces.questions() - seen.keys())
    bad = [*held.rejected, *held.bad_traces]
    counts["traces"] = {"in": len(held.traces) + unused + len(bad), "used": len(held.traces), "unused": unused}
    return Posed(questions, rejected, counts, held.traces, bad, read_as=held.read_as)


def question_fault(question: Any) -> tuple[str, str] | None:
    """(reason, detail) if what a module gives cannot be kept as a question."""
    if not isinstance(question, Question):
        return "no_question", f"expected a Question, got {type(question).__name__}"
    texts = {name: getattr(question, name) for name in ("question", "gold", "group")}
    for name, text in texts.items():
        if not isinstance(text, str):
            return "not_text", f"'{name}' must be a text, got {type(text).__name__}"
    if not isinstance(question.metadata, dict):
        return "not_json", f"'metadata' must be an object, got {type(question.metadata).__name__}"
    if wrong := weight_fault(question.weight):
        return "bad_weight", f"'weight': {wrong}"
    return json_fault({**texts, "metadata": question.metadata})


def from_files(config: QuestionsConfig, seed: int, gold_of: GoldOf | None) -> Posed:
    """Questions and traces of files: see ``files.gather`` and ``splits.share_out``."""
    if gold_of is None:
        chain = Chain()
        found = gather(config.all_files(), chain.answer, with_traces=False)
    else:
        found = gather(config.all_files(), gold_of, with_traces=True)
    if not found.questions and not found.rejected:
        raise InputError(f"{config.source}: there is no row in it")
    if not found.questions:
        first, reasons = found.rejected[0], listed(by_reason(found.rejected))
        raise InputError(f"{first.where}: {first.detail}. None of {found.total} lines can be used ({reasons})")
    general = [question for question in found.questions if question.is_general]
    asked = [question for question in found.questions if not question.is_general]
    says_split = any(question.split for question in asked)
    refuse_too_many(found.rejected, found.total, config.max_rejected, MAX_REJECTED, "lines")
    pairs: list[Pair] | None = []

    def refuse(candidates: list[Question], held: list[Question]) -> list[Question]:
        nonlocal pairs
        new = near_pairs(candidates, held, config.near_duplicates)
        pairs = None if new is None else [*(pairs or []), *new]
        near = (
            {pair.question.question_id: pair for pair in new or []} if config.near_duplicates.policy == "drop" else {}
        )
        benchmarks, left = Benchmarks(config.decontaminate), []
        for question in candidates:
            if (pair := near.get(question.question_id)) is not None:
                detail = f"nearly the {pair.other.split} question {pair.other.question!r:.120} ({pair.similarity:.2f})"
                found.rejected.append(left_out(found, question, "near_duplicate", detail))
            elif where := benchmarks.found_in([question.question, *found.traces.texts(question.question_id)]):
                found.rejected.append(
                    left_out(found, question, "contaminated", f"shares 13 words in a row with {where}")
                )
            else:
                left.append(question)
        return left

    left_over = f"{len(asked)} different questions ({found.duplicates} repeated, {len(found.rejected)} rejected)"
    used, unused = share_out(
        asked,
        config.train,
        config.test,
        config.validation,
        seed,
        keep_groups=config.keep_groups,
        refuse=refuse,
        what=f"{config.source}: {left_over}",
    )
    if general:
        used = [*refuse(general, [each for each in used if each.split != "train"]), *used]
    counts = counted(found.total, len(used), found.duplicates, len(unused), found.rejected, found.joined)
    if pairs is None or pairs:
        counts["near_duplicates"] = MISSING if pairs is None else len(pairs)
    return Posed(
        used,
        found.rejected,
        counts,
        found.traces,
        found.bad_traces,
        pairs or [],
        found.read_as,
        says_split,
        found.from_traces,
    )


def left_out(found: Gathered, question: Question, reason: str, detail: str) -> Rejected:
    file, row = found.places[question.question_id]
    return Rejected(f"{file}:{row}", reason, detail, question.question, file, row)


def counted(
    total: int, used: int, duplicates: int, unused: int, rejected: list[Rejected], joined: int = 0
) -> dict[str, Any]:
    """The counts of a source. Raises AssertionError if they do not add up."""
    if total != used + duplicates + joined + unused + len(rejected):
        raise AssertionError(
            f"questions were lost: {total} in, {used}, {duplicates}, {joined}, {unused}, {len(rejected)}"
        )
    return {
        **{"in": total, "used": used, "duplicates": duplicates, "unused": unused},
        **({"joined": joined} if joined else {}),
        "rejected": by_reason(rejected),
    }
