"""The plain layout: one record as tokens, each with a kind and a step.

    text  <s>     question <think> trace   </think> answer </s>
    kind  control prompt   control by span control  answer control

A token of the trace belongs to the span, and to the step, that holds its first character that is no white space
(its first character if all are white space): a token such as " =" goes with what it says, not with the space
before it. Steps are counted from 0 in each trace; outside the trace the step is 0, and steps from 65,535 on share
that number.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from operator import lt
from typing import Any, Literal

import numpy as np
from tokenizers import Encoding

from tracestill.data_pipeline.base.errors import InputError
from tracestill.data_pipeline.base.kinds import Kinds
from tracestill.data_pipeline.base.schema import GENERAL, Record, Spans, span_fault
from tracestill.data_pipeline.segmentation.parts import step_ends
from tracestill.data_pipeline.tokens.layout import Document, Encoded, Reading
from tracestill.data_pipeline.tokens.remembered import first_visible
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
    takes_system = False

    def __init__(self, tokenizer: TraceTokenizer, trace: Literal["keep", "drop"]) -> None:
        self.tokenizer, self.backend, self.trace = tokenizer, tokenizer.backend, trace
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

    def prompt_ids(self, question: str, system: str | None = None) -> list[int]:
        return prompt_ids(self.tokenizer, question)

    def begun_ids(self, trace: str, *, closed: bool) -> list[int]:
        if not trace and not closed:
            return []
        tokenizer = self.tokenizer
        end = [tokenizer.end_think] if closed else []
        return [tokenizer.think, *tokenizer.encode([trace])[0].ids, *end]

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
            begun=output.answer if closed and not output.finished else None,
        )


def encode(
    tokenizer: TraceTokenizer, records: Sequence[Record], kinds: Kinds, trace: Literal["keep", "drop"] = "keep"
) -> list[Document]:
    """The documents of the records, of any length. Raises InputError naming the record whose spans are bad."""
    count = len(records)
    traces = [record.trace for record in records] if trace == "keep" else [""] * count
    texts = [*(record.question for record in records), *traces, *(record.answer for record in records)]
    found = tokenizer.remembered(texts)
    lengths = found.lengths.reshape(3, count)
    ends = np.cumsum(lengths.sum(axis=0) + 4)  # of documents
    bos = ends - lengths.sum(axis=0) - 4
    think = bos + lengths[0] + 1
    end_think = think + lengths[1] + 1
    total = int(ends[-1]) if count else 0
    tokens = np.empty(total, np.int32)
    kind = np.full(total, kinds.id("control"), np.uint8)
    step = np.zeros(total, np.uint16)
    symbols = ((bos, tokenizer.bos), (think, tokenizer.think), (end_think, tokenizer.end_think))
    for places, symbol in (*symbols, (ends - 1, tokenizer.eos)):
        tokens[places] = symbol
    firsts = np.concatenate([bos, think, end_think]) + 1  # of question, trace, answer
    places = np.repeat(firsts - found.bounds[:-1], found.lengths) + np.arange(len(found.ids))
    tokens[places] = found.ids
    first, last = found.bounds[count], found.bounds[2 * count]  # the tokens of traces
    kind[places[:first]], kind[places[last:]] = kinds.id("prompt"), kinds.id("answer")
    inside = places[first:last]
    kind[inside], step[inside] = kinds_and_steps(records, found.seen[first:last], lengths[1], kinds)
    made = [
        Document(tokens[begin:end], kind[begin:end], step[begin:end])
        for begin, end in zip(bos.tolist(), ends.tolist(), strict=True)
    ]
    for at, record in enumerate(records):
        if is_bare(record):
            text = found.ids[slice(*found.bounds[2 * count + at : 2 * count + at + 2])].tolist()
            made[at] = bare_document(tokenizer.bos, text, tokenizer.eos, kinds)
    return made


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
    offsets = np.array(trace.offsets, np.int64).reshape(-1, 2)
    seen = first_visible([record.trace], offsets, np.array([0, len(offsets)]))
    return kinds_and_steps([record], seen, np.array([len(offsets)]), kinds)


def kinds_and_steps(
    records: Sequence[Record],  # N
    at: np.ndarray,  # (m,) positions of characters in the traces of the records, in the records' order
    counts: np.ndarray,  # (N,) how many are in each
    kinds: Kinds,
) -> tuple[np.ndarray, np.ndarray]:
    """(m,) uint8 kind and (m,) uint16 step of characters. Raises InputError naming the record if its spans are bad;
    nobody asks for those of a record in which no character is."""
    asked = [record for record, count in zip(records, counts.tolist(), strict=True) if count]
    counts = counts[counts > 0]
    spans, ids = spans_of_all(asked, kinds)
    steps = [step_ends(record.trace) for record in asked]
    lengths = np.fromiter((len(record.trace) for record in asked), np.int64, len(asked))
    starts = np.cumsum(lengths) - lengths  # of the traces, one behind the other
    where = at + np.repeat(starts, counts)
    span = np.searchsorted(behind(spans, starts), where, side="right")
    of_each = np.fromiter(map(len, steps), np.int64, len(steps))
    step = np.searchsorted(behind(steps, starts), where, side="right") - np.repeat(np.cumsum(of_each) - of_each, counts)
    return ids[span], np.minimum(step, LAST_STEP).astype(np.uint16)


def behind(places: Sequence[Sequence[int]], starts: np.ndarray) -> np.ndarray:
    """Places in each of N texts as places in all of them, one behind the other; ``starts`` (N,): where each begins."""
    counts = np.fromiter(map(len, places), np.int64, len(places))
    return np.fromiter(chain.from_iterable(places), np.int64, int(counts.sum())) + np.repeat(starts, counts)


def spans_of_all(records: Sequence[Record], kinds: Kinds) -> tuple[list[Sequence[int]], np.ndarray]:
    """Where the spans of each record end, and (s,) the id of the kind of each of all spans. Raises InputError naming
    the record whose spans are bad."""
    known = {name: kinds.id(name) for name in kinds.members("trace")}
    ends: list[Sequence[int]] = []
    names: list[str] = []
    for record in records:
        spans = record.spans
        if not isinstance(spans, Spans) or not is_whole(spans, record.trace, known):
            if fault := span_fault(record.trace, spans, known):
                who = f"record {record.record_id} (question {record.question_id})"
                raise InputError(f"{who}: {fault}; segment its trace again")
            spans = Spans([span.end for span in spans], [span.kind for span in spans])
        ends.append(spans.ends)
        names += spans.kinds
    return ends, np.fromiter(map(known.__getitem__, names), np.uint8, len(names))


def is_whole(spans: Spans, trace: str, known: Collection[str]) -> bool:
    """Whether spans are certainly good."""
    ends = spans.ends
    return (
        bool(ends)
        and ends[0] > 0
        and ends[-1] == len(trace)
        and all(map(lt, ends, ends[1:]))
        and all(map(known.__contains__, spans.kinds))
    )
