"""Questions of a run: from a task module or from a file of lines, the splits apart from each other by content."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline.base import own_modules
from tracestill.data_pipeline.base.content import named_files, read_digest
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.options import check_options
from tracestill.data_pipeline.base.schema import Question, content_id, weight_fault
from tracestill.data_pipeline.base.stage import UNKNOWN
from tracestill.data_pipeline.guards.names import Name
from tracestill.data_pipeline.guards.well_formed import json_fault
from tracestill.data_pipeline.sampling.question_lines import read_questions
from tracestill.data_pipeline.sampling.rejected import SHARE, Rejected, by_reason, refuse_too_many
from tracestill.data_pipeline.sampling.teachers import is_own, question_function

MAX_REJECTED = "questions.max_rejected"


class QuestionsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Name = Field(
        description="a task of data_pipeline/sampling/teachers, a dotted module, or a file of lines *.jsonl"
    )
    train: int = Field(ge=1, description="questions that teachers answer")
    test: int = Field(ge=0, description="held-out questions, never shown to a teacher or a student in training")
    validation: int = Field(
        0, ge=0, description="held-out questions that training may look at to choose a checkpoint; apart from test"
    )
    options: dict[str, Any] = Field({}, description="the source's own options")
    max_rejected: float = Field(
        SHARE, ge=0, le=1, description="share of lines or questions that may be unusable; with more, nothing is sampled"
    )

    @property
    def is_file(self) -> bool:
        return self.source.endswith(".jsonl")

    @model_validator(mode="after")
    def _known_source(self) -> QuestionsConfig:
        if not self.is_file and own_modules.is_looking() and is_own(self.source):
            return self
        if not self.is_file:
            check_options(question_function(self.source, "questions.source")[1], self.options, "questions.options")
        elif self.options:
            raise ValueError(f"questions.options: a file takes no options, got {', '.join(self.options)}")
        return self

    def identity(self) -> dict[str, Any]:
        """The config for a manifest: with a digest of the file, if the source is one."""
        held = self.model_dump(mode="json", exclude_defaults=True, exclude={"max_rejected"})
        if not self.is_file:
            return held
        path = Path(self.source)
        if path.is_file():
            return {**held, "file": read_digest(path)}
        if own_modules.is_looking():
            return {**held, "file": UNKNOWN}
        raise InputError(f"questions.source: no file {path}")

    def named(self) -> dict[str, dict[str, Path]]:
        """Field -> name -> path of the files outside of the run that the questions come from."""
        module = {} if self.is_file else own_modules.files(self.source) if is_own(self.source) else {}
        source = {"questions.source": {"": Path(self.source)}} if self.is_file else {"questions.module": module}
        return source | named_files(self.options, "questions.options")


@dataclass(frozen=True)
class Posed:
    """Questions of all splits, and what became of everything else that the source held."""

    questions: list[Question]  # training ones first
    rejected: list[Rejected]
    counts: dict[str, Any]  # in = used + duplicates + unused + the sum of rejected by reason


def make_questions(config: QuestionsConfig, seed: int) -> Posed:
    """Questions of all splits, equal for equal arguments.

    Raises InputError if the source has too few, if more than ``config.max_rejected`` of it cannot be used, or if a
    module gives a question twice or in two splits.
    """
    wanted = {"train": config.train, "test": config.test}
    if config.validation:  # task modules that know two splits only need not be told
        wanted["validation"] = config.validation
    return from_file(config, wanted, seed) if config.is_file else from_module(config, wanted, seed)


def from_module(config: QuestionsConfig, wanted: dict[str, int], seed: int) -> Posed:
    """Questions of a task module. A question that cannot be kept is rejected, and its split is one smaller."""
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
    return Posed(questions, rejected, counted(len(given), len(found), 0, 0, rejected))


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


def from_file(config: QuestionsConfig, wanted: dict[str, int], seed: int) -> Posed:
    """Questions of a file of lines (``question_lines``).

    They are shuffled by the seed; test questions come first, then validation ones, so that they stay the same for any
    number of the others. A repeated question counts once.
    """
    path = Path(config.source)
    lines = read_questions(path)
    refuse_too_many(lines.rejected, lines.total, config.max_rejected, MAX_REJECTED, "lines")
    if len(lines.questions) < sum(wanted.values()):
        left_out = f" ({lines.duplicates} repeated, {len(lines.rejected)} rejected)"
        raise InputError(
            f"{path}: {len(lines.questions)} different questions{left_out}, but "
            f"{' + '.join(f'questions.{split}' for split in wanted)} = {sum(wanted.values())}"
        )
    questions = list(lines.questions)
    random.Random(f"questions {seed}").shuffle(questions)
    splits = [split for split in ("test", "validation", "train") for _ in range(wanted.get(split, 0))]
    found = [replace(question, split=split) for question, split in zip(questions, splits, strict=False)]
    unused = len(questions) - len(found)
    return Posed(
        sorted(found, key=lambda question: question.split != "train"),
        lines.rejected,
        counted(lines.total, len(found), lines.duplicates, unused, lines.rejected),
    )


def counted(total: int, used: int, duplicates: int, unused: int, rejected: list[Rejected]) -> dict[str, Any]:
    """The counts of a source. Raises AssertionError if they do not add up."""
    if total != used + duplicates + unused + len(rejected):
        raise AssertionError(f"questions were lost: {total} in, {used}, {duplicates}, {unused}, {len(rejected)}")
    return {
        **{"in": total, "used": used, "duplicates": duplicates, "unused": unused},
        "rejected": by_reason(rejected),
    }
