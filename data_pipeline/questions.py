"""Questions of a run: from a task module or from a file of lines, the splits apart from each other by content."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from tracestill.data_pipeline import own_modules
from tracestill.data_pipeline.answers import same_answer
from tracestill.data_pipeline.content import named_files, read_digest
from tracestill.data_pipeline.errors import InputError
from tracestill.data_pipeline.schema import Question, content_id
from tracestill.data_pipeline.stage import UNKNOWN
from tracestill.data_pipeline.teachers.protocol import check_options, is_own, question_function


class QuestionsConfig(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="a task of data_pipeline/teachers, a dotted module, or a file of lines *.jsonl")
    train: int = Field(ge=1, description="questions that teachers answer")
    test: int = Field(ge=0, description="held-out questions, never shown to a teacher or a student in training")
    validation: int = Field(
        0, ge=0, description="held-out questions that training may look at to choose a checkpoint; apart from test"
    )
    options: dict[str, Any] = Field({}, description="the source's own options")

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
        if not self.is_file:
            return self.model_dump(mode="json", exclude_defaults=True)
        path, held = Path(self.source), self.model_dump(mode="json", exclude_defaults=True)
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


def make_questions(config: QuestionsConfig, seed: int) -> list[Question]:
    """Questions of all splits, training ones first, equal for equal arguments.

    Raises InputError if the source has too few, or if a question occurs twice or in two splits by content.
    """
    wanted = {"train": config.train, "test": config.test}
    if config.validation:  # task modules that know two splits only need not be told
        wanted["validation"] = config.validation
    if config.is_file:
        found = from_file(Path(config.source), wanted, seed)
    else:
        function, model = question_function(config.source, "questions.source")
        found = list(function(wanted, check_options(model, config.options, "questions.options"), seed))
    counts = Counter(question.split for question in found)
    if counts != +Counter(wanted):
        raise InputError(f"questions.source: '{config.source}' gave {dict(counts)} questions, expected {wanted}")
    seen: dict[str, Question] = {}
    for question in found:
        if question.question_id != content_id(question.question):
            raise InputError(
                f"questions.source: '{config.source}' gave a question whose id is not content_id(question): "
                f"{question.question[:80]!r}"
            )
        if (other := seen.setdefault(question.question_id, question)) is not question:
            raise InputError(
                f"questions.source: '{config.source}' gave the same question twice ({other.split} and "
                f"{question.split}): {question.question[:80]!r}"
            )
    return sorted(found, key=lambda question: question.split != "train")


def from_file(path: Path, wanted: dict[str, int], seed: int) -> list[Question]:
    """Questions of a file with one JSON object a line: ``question`` and ``gold``, further fields become metadata.

    Lines are shuffled by the seed; test questions come first, then validation ones, so that they stay the same for any
    number of the others. A repeated question counts once. Raises InputError naming the file and line of a bad line.
    """
    found: dict[str, tuple[int, Question]] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for at, line in enumerate(lines, start=1):
                if not line.strip():
                    continue
                question = question_of_line(line, f"{path}:{at}")
                first, other = found.setdefault(question.question_id, (at, question))
                if not same_answer(question.gold, other.gold):
                    raise InputError(
                        f"{path}:{at}: the question of line {first} with another gold answer "
                        f"({question.gold!r}, not {other.gold!r}); keep one of them"
                    )
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not readable as UTF-8 text ({error})") from error
    if len(found) < sum(wanted.values()):
        raise InputError(
            f"{path}: {len(found)} different questions, but {' + '.join(f'questions.{split}' for split in wanted)} = "
            f"{sum(wanted.values())}"
        )
    questions = [question for _, question in found.values()]
    random.Random(f"questions {seed}").shuffle(questions)
    splits = [split for split in ("test", "validation", "train") for _ in range(wanted.get(split, 0))]
    return [
        Question(q.question_id, q.question, q.gold, split, q.group, q.metadata)
        for q, split in zip(questions, splits, strict=False)
    ]


def question_of_line(line: str, where: str) -> Question:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where}: not valid JSON ({error})") from error
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected an object with question and gold, got {type(data).__name__}")
    text, gold = data.pop("question", None), data.pop("gold", None)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{where}: 'question' must be a text, got {text!r}")
    if isinstance(gold, bool) or not isinstance(gold, str | int | float) or not str(gold).strip():
        raise InputError(f"{where}: 'gold' must be a text or a number, got {gold!r}")
    return Question(content_id(text), text, str(gold), "", str(data.pop("group", "")), data)
