"""The plain layout: one record as tokens, each with a kind and a step.

    text  <s>     question <think> trace   </think> answer </s>
    kind  control prompt   control by span control  answer control

A token of the trace belongs to the span, and to the step, that holds its first character that is no white space
(its first character if all are white space): a token such as " =" goes with what it says, not with the space
before it. Steps are counted from 0 in each trace; outside the trace the step is 0, and steps from 65,535 on share
that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import GENERAL, Record, span_fault
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.tokens.layout import Document, Encoded, Reading
from tracestill.data_pipeline.tokens.render import (
    CHAT_TEMPLATE,
    END_THINK,
    THINK,
    TraceTokenizer,
    prompt_ids,
    split_output,
    symbols_in,
)

LAST_STEP = np.iinfo(np.uint16).max


class PlainLayout:
    """``<s> question <think> trace </think> answer </s>``."""

    chat_template: str | None = CHAT_TEMPLATE

    def __init__(self, tokenizer: TraceTokenizer, trace: Literal["keep", "drop"]) -> None:
        self.tokenizer, self.trace = tokenizer, trace
        self.size, self.pad = tokenizer.size, tokenizer.pad
        self.stops: tuple[int, ...] = (tokenizer.eos,)
        self.special_ids: dict[str, int | None] = dict(tokenizer.special_ids)
        self.findings: dict[str, Any] = {}

    def encode(self, records: Sequence[Record], kinds: Kinds) -> list[Encoded]:
        """As ``Layout.encode``. A record is refused as ``control_in_text`` if an export's tokenizer would read a
        control symbol in its question, or if its trace or answer holds a think tag, which nobody could tell from the
        delimiter in what the student writes."""
        found = symbols_in(self.tokenizer.backend, [record.question for record in records])
        made = encode(self.tokenizer, records, kinds, self.trace)
        refused = [self.forged(record, symbols) for record, symbols in zip(records, found, strict=True)]
        return [
            Encoded({}, ("control_in_text", why)) if why else Encoded({"": document})
            for document, why in zip(made, refused, strict=True)
        ]

    def forged(self, record: Record, in_question: list[str]) -> str | None:
        """Which part of a record holds which control symbol, if one does."""
        if in_question:
            return f"the question holds {in_question[0]}"
        for part in ("trace", "answer") if self.trace == "keep" else ("answer",):
            if tags := [tag for tag in (THINK, END_THINK) if tag in getattr(record, part)]:
                return f"the {part} holds {tags[0]}"
        return None

    def control_in(self, question: str) -> str | None:
        return next(iter(symbols_in(self.tokenizer.backend, [question])[0]), None)

    def prompt_ids(self, question: str) -> list[int]:
        return prompt_ids(self.tokenizer, question)

    def asking(self, question: str) -> tuple[list[dict[str, str]], dict[str, Any]]:
        return [{"role": "user", "content": question}], {}

    def read(self, ids: Sequence[int]) -> Reading:
        tokenizer = self.tokenizer
        output = split_output(tokenizer, ids)
        ends = [list(ids).index(end) for end in (tokenizer.end_think, tokenizer.eos) if end in ids]
        thought = ids[: min(ends, default=len(ids))]
        closed = tokenizer.end_think in ids
        answer = output.answer if closed else None if tokenizer.think in thought else output.trace
        return Reading(
            text=tokenizer.backend.decode(list(ids), skip_special_tokens=False),
            trace=output.trace,
            answer=answer if output.finished else None,
            finished=output.finished,
            trace_tokens=sum(token != tokenizer.think for token in thought),
            in_form=output.finished and closed,
        )


def encode(
    tokenizer: TraceTokenizer, records: Sequence[Record], kinds: Kinds, trace: Literal["keep", "drop"] = "keep"
) -> list[Document]:
    """The documents of the records, of any length. Raises InputError naming the record whose spans are bad."""
    questions = tokenizer.encode([record.question for record in records])
    traces = tokenizer.encode([record.trace if trace == "keep" else "" for record in records])
    answers = tokenizer.encode([record.answer for record in records])
    return [
        document(tokenizer, record, question, thought, answer, kinds)
        for record, question, thought, answer in zip(records, questions, traces, answers, strict=True)
    ]


def document(
    tokenizer: TraceTokenizer, record: Record, question: Encoding, trace: Encoding, answer: Encoding, kinds: Kinds
) -> Document:
    """Lay out one record between control symbols. Raises InputError naming it if its spans are bad."""
    ids = [
        tokenizer.bos,
        *question.ids,
        tokenizer.think,
        *trace.ids,
        tokenizer.end_think,
        *answer.ids,
        tokenizer.eos,
    ]
    tokens = np.array(ids, np.int32)
    kind = np.full(len(ids), kinds.id("control"), np.uint8)
    step = np.zeros(len(ids), np.uint16)
    if is_bare(record):
        return bare_document(tokenizer.bos, answer.ids, tokenizer.eos, kinds)
    begin = len(question.ids) + 2
    end = begin + len(trace.ids)
    kind[1 : begin - 1] = kinds.id("prompt")
    kind[end + 1 : -1] = kinds.id("answer")
    if trace.ids:
        kind[begin:end], step[begin:end] = trace_kinds_and_steps(record, trace, kinds)
    return Document(tokens, kind, step)


def is_bare(record: Record) -> bool:
    """Whether a record is plain text, with neither question nor trace."""
    return record.reader == GENERAL and not record.question


def bare_document(bos: int | None, text: Sequence[int], eos: int, kinds: Kinds) -> Document:
    """``<s> text </s>``; the text has the kind ``answer``. Without a symbol before it its first token is no target."""
    tokens = np.array([*([] if bos is None else [bos]), *text, eos], np.int32)
    kind = np.full(len(tokens), kinds.id("answer"), np.uint8)
    kind[-1] = kinds.id("control")
    if bos is not None:
        kind[0] = kinds.id("control")
    return Document(tokens, kind, np.zeros(len(tokens), np.uint16))


def trace_kinds_and_steps(record: Record, trace: Encoding, kinds: Kinds) -> tuple[np.ndarray, np.ndarray]:
    """(m,) kind and (m,) step of each token of a trace. Raises InputError naming the record if its spans are bad."""
    at = first_visible(record.trace, np.array(trace.offsets, np.int64).reshape(-1, 2))
    return kinds_and_steps_at(record, at, kinds)


def kinds_and_steps_at(
    record: Record,
    at: np.ndarray,  # (m,) positions of characters in the record's trace
    kinds: Kinds,
) -> tuple[np.ndarray, np.ndarray]:
    """(m,) uint8 kind and (m,) uint16 step of characters. Raises InputError naming the record if its spans are bad."""
    if fault := span_fault(record.trace, record.spans, kinds.members("trace")):
        raise InputError(f"record {record.record_id} (question {record.question_id}): {fault}; segment its trace again")
    span = np.searchsorted([span.end for span in record.spans], at, side="right")
    of_span = np.array([kinds.id(span.kind) for span in record.spans], np.uint8)
    step = np.searchsorted(step_ends(record.trace), at, side="right")
    return of_span[span], np.minimum(step, LAST_STEP).astype(np.uint16)


def first_visible(
    text: str,
    offsets: np.ndarray,  # (m, 2) first character of each token and the one after its last
) -> np.ndarray:
    """(m,) position of each token's first character that is no white space, or of its first character."""
    begin = np.minimum(offsets[:, 0], len(text) - 1)
    space = np.fromiter(map(str.isspace, text), bool, len(text))
    following = np.where(space, len(text), np.arange(len(text)))
    following = np.minimum.accumulate(following[::-1])[::-1]  # the first visible character at or after each
    visible = following[begin]
    return np.where(visible < offsets[:, 1], visible, begin)
