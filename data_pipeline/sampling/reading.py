"""What is read out of journaled samples: records' rows, and what is left out, with reason and place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tracestill.data_pipeline.answers.numbers.number import number
from tracestill.data_pipeline.base.schema import GENERAL, Question, Span, weight_fault
from tracestill.data_pipeline.sampling.asking.styles import tagged
from tracestill.data_pipeline.sampling.files.rejected import Rejected
from tracestill.data_pipeline.sampling.heard import Unusable, heard
from tracestill.data_pipeline.sampling.journal import Journal, Key
from tracestill.data_pipeline.sampling.readers.chain import Chain, Read, Unread
from tracestill.data_pipeline.sampling.readers.marks import Marked
from tracestill.data_pipeline.sampling.teachers import Said, Solution
from tracestill.data_pipeline.sampling.wanted import CRITIQUE, Wanted


@dataclass
class Reader:
    """Reads samples, and counts by which readers it did, and what the checks found in those that are kept."""

    chain: Chain
    by_id: dict[str, Question]
    tags: dict[str, str] = field(default_factory=dict)  # system prompt -> what the student sees of it
    readers: Counter[str] = field(default_factory=Counter)
    checks: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)
    detailed: set[str] = field(default_factory=set)  # ids of records of which a server told more
    out: int = 0

    def rows(self, book: Journal, wanted: Iterable[Wanted]) -> Iterator[dict[str, Any]]:
        """The record of each sample that gives one, as a row."""
        samples = {each.key: each for each in wanted}
        for key, said in book.rows((each.key, each.binding) for each in samples.values()):
            if (row := self.row(samples[key], said)) is not None:
                self.out += 1
                yield row

    def row(self, sample: Wanted, said: Solution | Said) -> dict[str, Any] | None:
        question = self.by_id[sample.key.question_id]
        read = self.read(question, said)
        if isinstance(read, Unread):
            self.reject(sample, read.reason, read.detail, said)
            return None
        solution: Solution | Said | Unusable = said
        if isinstance(said, Said):
            spans = spans_within(said, read.trace)
            if spans == () and read.trace:
                self.reject(sample, "bad_spans", "its trace is not in the text that its spans are of", said)
                return None
            solution = heard(Solution(read.trace, read.answer, spans, said.weight))
            if isinstance(solution, Unusable):  # a reader of the user's may give anything
                self.reject(sample, solution.reason, solution.detail, said)
                return None
        assert isinstance(solution, Solution)
        row = row_of(question, sample.key, solution, text_of(said) if isinstance(said, Said) else "", read.reader)
        if tag := self.tags.get(sample.key.style):
            row["question"] = tagged(question.question, tag)
        if isinstance(said, Said) and said.details:
            self.detailed.add(sample.key.record_id)
        if fault := weight_fault(row["weight"]):  # each is one, their product is not
            self.reject(sample, "bad_weight", f"its weight {said.weight} times its question's: {fault}", said)
            return None
        self.readers.update([read.reader] if read.reader else [])
        self.checks.update(reason for reason, _ in read.faults)
        return row

    def trace_of(self, question: Question, said: Solution | Said) -> tuple[str, str] | None:
        """Trace and answer, if there are any."""
        read = self.read(question, said)
        return None if isinstance(read, Unread) else (read.trace, read.answer)

    def read(self, question: Question, said: Solution | Said) -> Read | Unread:
        """Trace and answer, or why there is no record in it."""
        if question.is_general and isinstance(said, Said):
            text = self.chain.checked(Marked(said.raw, ""), GENERAL, finish=said.finish)
            return self.chain.rejects(text) or text._replace(trace="", answer=said.raw)
        if isinstance(said, Solution):  # it gave them by itself
            read: Read | Unread = self.chain.checked(Marked(said.trace, said.answer), "")
        else:
            read = self.chain.read(said, number(question.gold) is not None)
        return read if isinstance(read, Unread) else self.chain.rejects(read) or read

    def reject(self, sample: Wanted, reason: str, detail: str, said: Solution | Said) -> None:
        """Note that a sample gives no record."""
        self.rejected.append(rejection(sample, Unusable(reason, detail, text_of(said))))


def spans_within(said: Said, trace: str) -> tuple[Span, ...] | None:
    """The spans that were given with a text, of the trace that was read in it; none where it is not in it."""
    if said.spans is None:
        return None
    begin = (said.reasoning or said.raw).find(trace)
    end = begin + len(trace)
    inside = (span for span in said.spans if begin >= 0 and span.start < end and span.end > begin)
    return tuple(Span(max(span.start, begin) - begin, min(span.end, end) - begin, span.kind) for span in inside)


def text_of(said: Solution | Said) -> str:
    if isinstance(said, Solution):
        return ascii(said)
    return f"{said.reasoning}\n\n{said.raw}" if said.reasoning else said.raw


def rejection(sample: Wanted, unusable: Unusable) -> Rejected:
    place, asked = sample.place, asked_of(sample)
    if place is None:
        return Rejected(place_of(sample.key), unusable.reason, unusable.detail, unusable.said, **asked)
    where = f"{place.file}:{place.row}"
    return Rejected(where, unusable.reason, unusable.detail, unusable.said, place.file, place.row, **asked)


def asked_of(sample: Wanted) -> dict[str, Any]:
    """The fields of ``Rejected`` that say which trace is missing; none for a criticism, which is no trace."""
    key = sample.key
    return (
        {}
        if sample.part == CRITIQUE
        else {
            "record_id": key.record_id,
            "question_id": key.question_id,
            "teacher": key.teacher,
            "style": key.style,
            "temperature": key.temperature,
        }
    )


def place_of(key: Key) -> str:
    return f"teacher '{key.teacher}' on question {key.question_id}"


def row_of(question: Question, key: Key, solution: Solution, raw: str, reader: str) -> dict[str, Any]:
    return {
        "record_id": key.record_id,
        "question_id": question.question_id,
        "question": question.question,
        "gold": question.gold,
        "trace": solution.trace,
        "answer": solution.answer,
        "spans": [{"start": s.start, "end": s.end, "kind": s.kind} for s in solution.spans or ()],
        "weight": question.weight * solution.weight,
        "teacher": key.teacher,
        "style": key.style,
        "temperature": key.temperature,
        "index": key.index,
        "raw": raw,
        "reader": reader,
    }
