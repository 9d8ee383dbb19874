"""What a source of questions and traces holds: read as what, by which readers, how much of it cannot be used."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.answers.verify import same_answer
from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.schema import Question
from tracestill.data_pipeline.sampling.files.fields import FieldsConfig
from tracestill.data_pipeline.sampling.files.formats import is_files
from tracestill.data_pipeline.sampling.files.rejected import Rejected, listed
from tracestill.data_pipeline.sampling.files.trace_store import Place
from tracestill.data_pipeline.sampling.questions import Posed, QuestionsConfig, make_questions
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read, Unread

EXAMPLES = 3
LETTERS = 3.0  # of a token, and spaces
WORDS = re.compile(r"[A-Za-z\s]+")


@dataclass
class Survey:
    """What was found, of questions that are used and their traces."""

    posed: Posed
    examples: list[tuple[Question, Place, Read]] = field(default_factory=list)
    teachers: Counter[str] = field(default_factory=Counter)
    readers: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)  # in traces that are kept
    unread: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)  # traces
    right: int = 0  # answers equal to the gold one
    numeric: int = 0  # questions whose gold answer is a number
    lengths: list[int] = field(default_factory=list)  # tokens, about, of question, trace and answer together
    answers: list[int] = field(default_factory=list)  # tokens, about, of trace and answer together

    @property
    def traces(self) -> int:
        return len(self.lengths) + sum(self.unread.values())

    @property
    def has_gold(self) -> bool:
        """Whether a field gives a question's gold answer, rather than its traces."""
        return self.posed.from_traces < len(self.posed.questions)

    def split(self, name: str) -> int:
        return sum(question.split == name for question in self.posed.questions)


def survey(source: str, decontaminate: tuple[str, ...], fields: Mapping[str, str] = MappingProxyType({})) -> Survey:
    """Read all of a source, and every trace in it; ``fields``: as in questions.fields. Raises InputError if nothing in
    it can be used."""
    chain = Chain()
    if not is_files(source):
        raise InputError(f"{source}: is no file, no directory (write a / behind its name) and no hf://owner/name")
    config = QuestionsConfig(source=source, max_rejected=1, decontaminate=decontaminate, fields=FieldsConfig(**fields))
    posed = make_questions(config, 0, chain.answer)
    found = Survey(posed)
    with posed.traces as traces:
        for question in posed.questions:
            numeric = number(question.gold) is not None
            found.numeric += numeric
            for place in traces.of(question.question_id):
                read = chain.read(traces.read(place), numeric)
                fault = read if isinstance(read, Unread) else chain.rejects(read)
                if fault is not None or isinstance(read, Unread):
                    assert fault is not None
                    found.unread[fault.reason] += 1
                    found.rejected.append(
                        Rejected(f"{place.file}:{place.row}", fault.reason, fault.detail, "", place.file, place.row)
                    )
                    continue
                found.teachers[place.teacher] += 1
                found.readers[read.reader] += 1
                found.checks.update(reason for reason, _ in read.faults)
                found.right += same_answer(read.answer, question.gold, question.question)
                found.answers.append(tokens_of(read.trace) + tokens_of(read.answer))
                found.lengths.append(tokens_of(question.question) + found.answers[-1])
                if len(found.examples) < EXAMPLES and question.split == "train":
                    found.examples.append((question, place, read))
    if found.rejected and not found.lengths:
        first, reasons = found.rejected[0], listed(found.unread)
        raise InputError(f"{first.where}: {first.detail}. None of {found.traces} traces can be used ({reasons})")
    return found


def tokens_of(text: str) -> int:
    """About how many tokens a text has for a tokenizer trained on such texts: digits and signs stand alone."""
    alone = len(WORDS.sub("", text))
    return alone + math.ceil((len(text) - alone) / LETTERS)


def name_of(source: str) -> str:
    """A name for a run, made of a source's."""
    stem = Path(source.partition("?")[0].rstrip("/")).name
    while Path(stem).suffix:
        stem = Path(stem).stem
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in stem).strip("-_")
    return plain[:60] or "traces"
